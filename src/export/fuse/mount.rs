//! Mounts of a FUSE file system that is one file.
//!
//! Used by the export. root mounts by itself. Other users, and root without the right to mount, go through `fusermount3`.
//!
//! # Threads
//! Any thread that may wait. Nothing of what is mounted is asked for.
#![allow(unsafe_code)] // mount and umount2

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::fusermount;
use crate::block::OwnMount;
use crate::{Error, ErrorKind, Result};

const DEVICE: &str = "/dev/fuse";

/// A regular file to mount over, by its absolute path without symbolic links.
#[derive(Clone, Debug)]
pub(super) struct Mountpoint(PathBuf);

/// How to mount.
#[derive(Clone, Copy, Debug)]
pub(super) struct MountOptions {
    /// The most bytes that one read asks for.
    pub(super) max_read: usize,
    /// Whether users other than this process's may open the file.
    pub(super) allow_other: bool,
}

/// What is mounted.
#[derive(Debug)]
pub(super) struct Mounted {
    mountpoint: PathBuf,
    own: OwnMount,
    by_helper: bool,
}

impl Mountpoint {
    /// The file that options call `path`.
    ///
    /// # Errors
    /// `AlreadyExists` if a FUSE export of this process is there, `Os` if there is nothing, `InvalidArgument` if it is no
    /// regular file.
    pub(super) fn find(path: &str) -> Result<Mountpoint> {
        // The first question, because the next ones would be for this process to answer.
        if OwnMount::has(Path::new(path)) {
            let message = format!("There already is a FUSE export on '{path}'");
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        let failed = |error| Error::os(format!("Failed to stat '{path}'"), error);
        if !fs::metadata(path).map_err(failed)?.is_file() {
            let message = format!("'{path}' is not a regular file");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        fs::canonicalize(path).map(Mountpoint).map_err(failed)
    }

    /// Mounts here. The connection to the kernel does not block.
    ///
    /// # Errors
    /// The kernel's, or what `fusermount3` says.
    pub(super) fn mount(&self, options: MountOptions) -> io::Result<(Mounted, File)> {
        let direct = self.mount_directly(options);
        let by_helper =
            matches!(&direct, Err(error) if error.kind() == io::ErrorKind::PermissionDenied);
        let device = match by_helper {
            true => fusermount::mount(&self.0, &options.list())?,
            false => direct?,
        };
        let prepared = set_nonblocking(&device).and_then(|()| OwnMount::new(&self.0));
        let own = prepared.inspect_err(|_| {
            // Nothing serves the mount.
            drop(unmount(&self.0, by_helper));
        })?;
        let mounted = Mounted {
            mountpoint: self.0.clone(),
            own,
            by_helper,
        };
        Ok((mounted, device))
    }

    fn mount_directly(&self, options: MountOptions) -> io::Result<File> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_CLOEXEC)
            .open(DEVICE)
            .map_err(|error| io::Error::new(error.kind(), format!("{DEVICE}: {error}")))?;
        let process = fs::metadata("/proc/self")?;
        let data = format!(
            "fd={},rootmode={:o},user_id={},group_id={},{}",
            device.as_raw_fd(),
            libc::S_IFREG,
            process.uid(),
            process.gid(),
            options.list()
        );
        mount_fuse(&self.0, &data)?;
        Ok(device)
    }
}

impl MountOptions {
    /// The options as `mount` and `fusermount3` take them.
    fn list(self) -> String {
        let others = if self.allow_other { ",allow_other" } else { "" };
        format!("max_read={},default_permissions{others}", self.max_read)
    }
}

impl Mounted {
    /// Takes the mount away, unless another process has done so. Who has the file open keeps it.
    pub(super) fn unmount(&self) -> io::Result<()> {
        if !self.own.is_at(&self.mountpoint) {
            return Ok(());
        }
        unmount(&self.mountpoint, self.by_helper)
    }
}

fn unmount(mountpoint: &Path, by_helper: bool) -> io::Result<()> {
    match by_helper {
        true => fusermount::unmount(mountpoint),
        false => unmount_fuse(mountpoint),
    }
}

fn mount_fuse(mountpoint: &Path, data: &str) -> io::Result<()> {
    let target = c_string(mountpoint.as_os_str().as_bytes())?;
    let data = c_string(data.as_bytes())?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    let (source, kind) = (c"/dev/fuse", c"fuse");
    // SAFETY: all strings end with a NUL and outlive the call.
    let result = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            data.as_ptr().cast(),
        )
    };
    ok(result)
}

fn unmount_fuse(mountpoint: &Path) -> io::Result<()> {
    let target = c_string(mountpoint.as_os_str().as_bytes())?;
    // SAFETY: the string ends with a NUL and outlives the call.
    ok(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) })
}

fn set_nonblocking(file: &File) -> io::Result<()> {
    // SAFETY: sets a flag of an open fd. A device of FUSE has no other.
    ok(unsafe {
        libc::fcntl(
            file.as_raw_fd(),
            libc::F_SETFL,
            libc::O_RDWR | libc::O_NONBLOCK,
        )
    })
}

fn ok(result: i32) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(io::Error::other)
}
