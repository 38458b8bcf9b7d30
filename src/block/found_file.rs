//! A file that was found and is not open yet.
//!
//! Used for files that images name: what is checked is what is opened, whoever changes names and links meanwhile. To find a file
//! waits for nothing and makes no device do anything.
#![allow(unsafe_code)] // openat

use std::ffi::CString;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path};

/// A file or folder, by an fd that only says which one it is.
#[derive(Debug)]
pub(super) struct FoundFile(File);

impl FoundFile {
    /// What is at `path`, where links lead.
    pub(super) fn at(path: &Path) -> io::Result<FoundFile> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(path)?;
        Ok(FoundFile(opened))
    }

    /// What is at `path` below this folder. A path that leads out of it is refused, and no link is followed: a link at the end is found
    /// itself.
    pub(super) fn below(&self, path: &Path) -> io::Result<FoundFile> {
        let mut found = FoundFile(self.0.try_clone()?);
        for component in path.components() {
            let Component::Normal(name) = component else {
                return Err(io::Error::from_raw_os_error(libc::EXDEV));
            };
            found = found.child(&CString::new(name.as_bytes())?)?;
        }
        Ok(found)
    }

    /// What has the name `name` in this folder.
    fn child(&self, name: &CString) -> io::Result<FoundFile> {
        let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        // SAFETY: the fd is open and the name ends with a zero.
        let fd = unsafe { libc::openat(self.0.as_raw_fd(), name.as_ptr(), flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the fd is new and nobody else's.
        Ok(FoundFile(unsafe { File::from_raw_fd(fd) }))
    }

    pub(super) fn metadata(&self) -> io::Result<Metadata> {
        self.0.metadata()
    }

    /// A path that leads to this very file. It needs `/proc`.
    pub(super) fn place(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use support::directory::TestDir;

    #[test]
    fn links_and_ways_out_of_a_folder_are_not_followed() {
        let directory = TestDir::new();
        let path = |name: &str| directory.file(name);
        fs::create_dir(path("in")).unwrap();
        fs::create_dir(path("in/deep")).unwrap();
        fs::create_dir(path("out")).unwrap();
        for name in ["in/deep/file", "out/file"] {
            fs::write(path(name), name).unwrap();
        }
        symlink(path("out"), path("in/folder-link")).unwrap();
        symlink(path("out/file"), path("in/link")).unwrap();
        let folder = FoundFile::at(&path("in")).unwrap();
        let errno = |name: &str| folder.below(Path::new(name)).unwrap_err().raw_os_error();
        assert_eq!(errno("../out/file"), Some(libc::EXDEV));
        assert_eq!(errno("deep/../../out/file"), Some(libc::EXDEV));
        assert_eq!(errno(path("out/file").to_str().unwrap()), Some(libc::EXDEV));
        assert_eq!(errno("folder-link/file"), Some(libc::ENOTDIR));
        assert_eq!(errno("deep/none"), Some(libc::ENOENT));
        let link = folder.below(Path::new("link")).unwrap();
        assert!(link.metadata().unwrap().is_symlink());
        let found = folder.below(Path::new("deep/file")).unwrap();
        // Another file gets the name.
        fs::rename(path("out/file"), path("in/deep/file")).unwrap();
        assert_eq!(fs::read(found.place()).unwrap(), b"in/deep/file");
    }
}
