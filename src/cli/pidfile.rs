//! The file that has the id of the process while it serves.
//!
//! It is locked, so that two programs do not use one file. At the end it is removed, if it is still the same.
#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use qcontext::{Error, ErrorKind, Result};

/// A written file. Dropping it removes the file.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    /// Keeps the lock.
    file: File,
}

impl PidFile {
    /// Writes the id of this process to `path`.
    ///
    /// # Errors
    /// The file cannot be made, or another program has it.
    pub(super) fn write(path: &Path) -> Result<PidFile> {
        let name = path.display();
        let failed = |what: &str, error: io::Error| {
            Error::os(format!("cannot create PID file: {what} '{name}'"), error)
        };
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let file = options
            .open(path)
            .map_err(|error| failed("Could not create", error))?;
        if file.try_lock().is_err() {
            let message = format!("cannot create PID file: '{name}' is in use by another process");
            return Err(Error::new(ErrorKind::Busy, message));
        }
        let id = format!("{}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| (&file).write_all(id.as_bytes()))
            .map_err(|error| failed("Could not write", error))?;
        // A daemon has another working directory at its end.
        let path = fs::canonicalize(path).map_err(|error| failed("Could not find", error))?;
        Ok(PidFile { path, file })
    }

    fn is_there(&self) -> io::Result<bool> {
        let (ours, there) = (self.file.metadata()?, fs::symlink_metadata(&self.path)?);
        Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if self.is_there().unwrap_or(false) {
            // An error means that it has been removed meanwhile.
            let _ = fs::remove_file(&self.path);
        }
    }
}
