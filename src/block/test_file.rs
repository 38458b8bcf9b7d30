//! Files for the tests of this layer.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A file that goes with its owner.
#[derive(Debug)]
pub(super) struct TestFile(PathBuf);

impl TestFile {
    /// A file of `length` bytes that begins with `start`, in the directory for temporary files.
    pub(super) fn new(start: &[u8], length: u64) -> TestFile {
        TestFile::in_directory(&std::env::temp_dir(), start, length)
    }

    pub(super) fn in_directory(directory: &Path, start: &[u8], length: u64) -> TestFile {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("qcontext-{}-block-{number}", std::process::id()));
        fs::write(&path, start).unwrap();
        let file = TestFile(path);
        file.set_length(length);
        file
    }

    pub(super) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    pub(super) fn set_length(&self, length: u64) {
        let file = fs::OpenOptions::new().write(true).open(&self.0);
        file.unwrap().set_len(length).unwrap();
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}
