//! A lock between servers that start for the same path: a file that is locked while its owner looks, and puts its socket there.
//!
//! The kernel ends the lock when its owner dies. The file is removed at the end of the lock.
#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The lock, until it is dropped.
#[derive(Debug)]
pub(super) struct PathLock {
    path: PathBuf,
    _file: File,
}

impl PathLock {
    /// Takes the lock whose file is `path`; `None` if another server has it.
    pub(super) fn take(path: &Path) -> io::Result<Option<PathLock>> {
        loop {
            let file = open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Without a name, it is the file of a lock that has just ended.
            if file.metadata()?.nlink() > 0 {
                return Ok(Some(PathLock {
                    path: path.to_owned(),
                    _file: file,
                }));
            }
        }
    }
}

impl Drop for PathLock {
    /// The name goes before the lock.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    options
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options.open(path)
}
