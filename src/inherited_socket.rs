//! A socket that another process has made and handed over by the number of its fd.
//!
//! # Invariants
//! 1. The number is looked at and duplicated, never closed: the fd may be another part's of this process.
#![allow(unsafe_code)] // getsockopt and fcntl on a number

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use crate::{Error, ErrorKind, Result};

/// What is expected of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketState {
    /// It accepts connections.
    Listening,
    /// It is one.
    Connected,
}

/// A stream socket of one of the families that there are.
#[derive(Debug)]
pub(crate) enum InheritedSocket {
    Unix(OwnedFd),
    Tcp(OwnedFd),
}

/// The number that a text stands for.
///
/// # Errors
/// It cannot be that of an fd.
pub(crate) fn parse_number(text: &str) -> Result<RawFd> {
    let fd = text.parse().ok().filter(|fd| *fd >= 0);
    fd.ok_or_else(|| {
        let message = format!("Unable to parse FD number {text}");
        Error::new(ErrorKind::InvalidArgument, message)
    })
}

/// Another fd of the socket `fd`.
///
/// # Errors
/// `InvalidInput` if it is not such a socket; the kernel's.
pub(crate) fn duplicate(fd: RawFd, state: SocketState) -> io::Result<InheritedSocket> {
    let is_stream = option(fd, libc::SO_TYPE)? == libc::SOCK_STREAM;
    let listens = option(fd, libc::SO_ACCEPTCONN)? != 0;
    if !is_stream || listens != (state == SocketState::Listening) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let make = match option(fd, libc::SO_DOMAIN)? {
        libc::AF_UNIX => InheritedSocket::Unix,
        libc::AF_INET | libc::AF_INET6 => InheritedSocket::Tcp,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    // SAFETY: no pointers involved; a number that is no fd is an error.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above has just made this fd for us.
    Ok(make(unsafe { OwnedFd::from_raw_fd(copy) }))
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
