//! Files that this process serves itself, through the kernel: the mounts of its FUSE exports.
//!
//! To open such a file, or even to ask for its size, makes the kernel ask this process. A thread that does so and is the one
//! that would answer waits for itself. So the mounts are known here, below all that opens files, and are recognised without a
//! question to the file system.
//!
//! # Threads
//! One lock around the list, under which no other code runs.
#![allow(unsafe_code)] // statx

use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Error, ErrorKind, Result};

static MOUNTS: Mutex<Vec<DeviceNumber>> = Mutex::new(Vec::new());

/// The number of a mounted file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DeviceNumber {
    major: u32,
    minor: u32,
}

/// A mount of this process, known until this is dropped.
#[derive(Debug)]
pub struct OwnMount(DeviceNumber);

impl OwnMount {
    /// What is mounted at `path`.
    ///
    /// # Errors
    /// The kernel's, if it does not say what is there.
    pub fn new(path: &Path) -> io::Result<OwnMount> {
        let number = device_number(path)?;
        mounts().push(number);
        Ok(OwnMount(number))
    }

    /// Whether it is what is mounted at `path`.
    pub fn is_at(&self, path: &Path) -> bool {
        device_number(path).is_ok_and(|number| number == self.0)
    }

    /// Whether a mount of this process is at `path`.
    pub fn has(path: &Path) -> bool {
        if mounts().is_empty() {
            return false;
        }
        device_number(path).is_ok_and(|number| mounts().contains(&number))
    }
}

impl Drop for OwnMount {
    fn drop(&mut self) {
        let mut mounts = mounts();
        if let Some(index) = mounts.iter().position(|number| *number == self.0) {
            mounts.swap_remove(index);
        }
    }
}

/// Refuses the file at `place`, which is known as `path`, if this process serves it. Any thread could wait for its own answer; and if the process is killed while one of
/// its threads, or a worker of the kernel, waits for an answer, the kernel never ends it.
///
/// # Errors
/// `WouldDeadlock` if it is such a file.
pub(super) fn refuse(path: &str, place: &str) -> Result<()> {
    if !OwnMount::has(Path::new(place)) {
        return Ok(());
    }
    let message = format!("Could not open '{path}': it is a FUSE export of this process");
    Err(Error::new(ErrorKind::WouldDeadlock, message))
}

/// The list is consistent after every single operation on it.
fn mounts() -> MutexGuard<'static, Vec<DeviceNumber>> {
    MOUNTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file system that `path` is on. It is not asked anything.
fn device_number(path: &Path) -> io::Result<DeviceNumber> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
        .open(path)?;
    let status = status_without_question(&file)?;
    Ok(DeviceNumber {
        major: status.stx_dev_major,
        minor: status.stx_dev_minor,
    })
}

fn status_without_question(file: &File) -> io::Result<libc::statx> {
    const FLAGS: c_int = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    // SAFETY: statx is plain data for which all zeroes is a valid value.
    let mut status: libc::statx = unsafe { mem::zeroed() };
    // SAFETY: the path is an empty C string, and the buffer has the right type.
    let result = unsafe { libc::statx(file.as_raw_fd(), c"".as_ptr(), FLAGS, 0, &raw mut status) };
    match result {
        0 => Ok(status),
        _ => Err(io::Error::last_os_error()),
    }
}
