//! The directory of a test, which goes with it.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that is removed when the value is dropped.
#[derive(Debug)]
pub struct TestDir {
    path: PathBuf,
    opened: File,
}

/// A name that nothing else in this process and in those beside it has.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}{}-{number}", std::process::id())
}

/// Where cargo put the programs of this build: the folder above that of the test's own program.
pub fn build_directory() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    program.ancestors().nth(2).unwrap().to_owned()
}

impl TestDir {
    /// On a real disk: files on tmpfs are served inline, past the engines, and take no direct I/O.
    pub fn new() -> TestDir {
        TestDir::below(&build_directory().join("tmp"))
    }

    /// In memory.
    pub fn in_memory() -> TestDir {
        TestDir::below(Path::new("/dev/shm"))
    }

    fn below(parent: &Path) -> TestDir {
        let path = parent.join(unique("qcontext-"));
        fs::create_dir_all(&path).unwrap();
        let opened = File::open(&path).unwrap();
        TestDir { path, opened }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file of the directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A socket of the directory, under a name that is short enough wherever the directory is: the name of a socket has at
    /// most 107 bytes. Programs that this one starts may use it, too.
    pub fn socket(&self, name: &str) -> PathBuf {
        let (process, fd) = (std::process::id(), self.opened.as_raw_fd());
        PathBuf::from(format!("/proc/{process}/fd/{fd}/{name}"))
    }

    /// An image of so many MiB without content, under this name.
    pub fn image(&self, name: &str, mebibytes: u64) -> PathBuf {
        let path = self.file(name);
        let file = File::create(&path).unwrap();
        file.set_len(mebibytes << 20).unwrap();
        path
    }
}

/// A file without a name, on a real disk.
pub fn scratch_file() -> File {
    let directory = TestDir::new();
    let mut options = File::options();
    options.read(true).write(true).create_new(true);
    options.open(directory.file("scratch")).unwrap()
}

impl Default for TestDir {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
