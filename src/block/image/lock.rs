//! Image locking that other virtual machine programs understand.
//!
//! Used when an image is opened. QEMU marks with shared locks on single bytes of the image what it does (byte 100 +
//! n) and what it does not tolerate others doing (byte 200 + n), with n = 0 for reading consistent data, 1 for
//! writing, 3 for resizing; a program that comes later looks whether the opposite byte is locked. The locks belong
//! to the open file description and go with it.
#![allow(unsafe_code)] // fcntl

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use crate::{Error, ErrorKind, Result};

/// The byte that says that a program does the first thing; the others follow.
const DOES: i64 = 100;
/// The byte that says that a program does not tolerate the first thing; the others follow.
const TOLERATES_NOT: i64 = 200;
const READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;

/// Which locks an image is opened with. No other program may write it, unless it is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Locks {
    /// This program reads.
    Reader,
    /// This program reads and writes.
    Writer,
    /// This program reads, and lets others do anything.
    Sharer,
}

/// Takes the locks.
///
/// # Errors
/// `Busy` if another program has locks that contradict, `Os` if locking fails.
pub(super) fn take(file: &File, locks: Locks, path: &str) -> Result<()> {
    let (does, tolerates_not) = locks.parts();
    let os = |error| Error::os(format!("cannot lock '{path}'"), error);
    for byte in bytes(does, tolerates_not) {
        if let Err(error) = set(file, libc::F_RDLCK, byte) {
            return ignore_unsupported(error).map_err(os);
        }
    }
    for byte in bytes(tolerates_not, does) {
        if is_locked(file, byte).map_err(os)? {
            return Err(conflict(locks, path));
        }
    }
    Ok(())
}

/// Takes the locks for `new`, which this program has open as `old` as well. Until that is closed or [`restore`]d, it has the locks
/// of both.
///
/// # Errors
/// As for [`take`]. Then `old` has its own locks again.
pub(super) fn take_over(old: (&File, Locks), new: &File, locks: Locks, path: &str) -> Result<()> {
    // Locks of `old` do not contradict themselves; those of `new` would.
    if let Err(error) = take(old.0, locks, path) {
        restore(old.0, old.1);
        return Err(error);
    }
    let (does, tolerates_not) = locks.parts();
    let taken = bytes(does, tolerates_not).try_for_each(|byte| set(new, libc::F_RDLCK, byte));
    match taken.map_or_else(ignore_unsupported, Ok) {
        Ok(()) => Ok(()),
        Err(error) => {
            restore(old.0, old.1);
            Err(Error::os(format!("cannot lock '{path}'"), error))
        }
    }
}

/// Gives back what does not belong to `locks`.
pub(super) fn restore(file: &File, locks: Locks) {
    let (does, tolerates_not) = locks.parts();
    let all = [READ, WRITE, RESIZE];
    for byte in bytes(&all, &all) {
        if !bytes(does, tolerates_not).any(|kept| kept == byte) {
            // To give a lock back cannot fail where taking it did not.
            let _ = set(file, libc::F_UNLCK, byte);
        }
    }
}

impl Locks {
    /// What the program does, and what it does not tolerate.
    fn parts(self) -> (&'static [i64], &'static [i64]) {
        match self {
            Locks::Reader => (&[READ], &[WRITE, RESIZE]),
            Locks::Writer => (&[READ, WRITE], &[WRITE, RESIZE]),
            Locks::Sharer => (&[READ], &[]),
        }
    }
}

/// The bytes to lock for what a program does and what it does not tolerate.
fn bytes(does: &[i64], tolerates_not: &[i64]) -> impl Iterator<Item = i64> {
    let does = does.iter().map(|n| DOES + n);
    does.chain(tolerates_not.iter().map(|n| TOLERATES_NOT + n))
}

/// File systems without locks are used without them, as QEMU does by default.
fn ignore_unsupported(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::EINVAL | libc::ENOLCK) => Ok(()),
        _ => Err(error),
    }
}

fn conflict(locks: Locks, path: &str) -> Error {
    let which = match locks {
        Locks::Reader => "shared \"write\"",
        Locks::Sharer => "\"consistent read\"",
        Locks::Writer => "\"write\"",
    };
    let message =
        format!("Failed to get {which} lock\nIs another process using the image [{path}]?");
    Error::new(ErrorKind::Busy, message)
}

fn flock(kind: i32, byte: i64) -> libc::flock {
    libc::flock {
        l_type: kind.try_into().unwrap_or(0),
        l_whence: libc::SEEK_SET.try_into().unwrap_or(0),
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

fn set(file: &File, kind: i32, byte: i64) -> io::Result<()> {
    let lock = flock(kind, byte);
    // SAFETY: a valid flock for an open file.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn is_locked(file: &File, byte: i64) -> io::Result<bool> {
    let mut lock = flock(libc::F_WRLCK, byte);
    // SAFETY: a valid flock for an open file, which the kernel may fill with the conflicting lock.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    if result == 0 {
        Ok(i32::from(lock.l_type) != libc::F_UNLCK)
    } else {
        Err(io::Error::last_os_error())
    }
}
