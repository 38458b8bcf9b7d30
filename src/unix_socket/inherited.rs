//! A listening socket that another process has made and handed over by the number of its fd.
//!
//! # Invariants
//! 1. The number is looked at and duplicated, never closed: the fd may be another part's of this process.
#![allow(unsafe_code)] // getsockopt and fcntl on a number

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Another fd of the Unix socket `fd`, which must listen.
pub(super) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    let is_unix = option(fd, libc::SO_DOMAIN)? == libc::AF_UNIX;
    if !is_unix || option(fd, libc::SO_ACCEPTCONN)? == 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: no pointers involved; a number that is no fd is an error.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above has just made this fd for us.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

fn option(fd: RawFd, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut size = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(0);
    // SAFETY: `value` and `size` are valid for writes, and `size` is that of `value`; a number that is no socket is an error.
    let answer = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            name,
            (&raw mut value).cast(),
            &raw mut size,
        )
    };
    match answer {
        0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}
