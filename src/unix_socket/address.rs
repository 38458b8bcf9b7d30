//! The system calls for sockets with a path as their address.
//!
//! A hidden name is longer than the path that was asked for, and may not fit into an address: then its directory is named by
//! an fd of ours, in `/proc`.
#![allow(unsafe_code)] // socket, bind, listen and connect

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The longest path of a socket, without the final NUL.
pub(super) const PATH_LIMIT: usize = 107;
/// The most connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// A new non-blocking socket.
pub(super) fn stream_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers involved.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above has just made this fd for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Binds the socket to `path`, which must not exist.
pub(super) fn bind(socket: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    with_address(path, |address, size| {
        // SAFETY: `address` is a socket address of `size` bytes that ends in a NUL.
        unsafe { libc::bind(socket.as_raw_fd(), address, size) }
    })
}

/// Connects the socket to that at `path`.
pub(super) fn connect(socket: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    with_address(path, |address, size| {
        // SAFETY: `address` is a socket address of `size` bytes that ends in a NUL.
        unsafe { libc::connect(socket.as_raw_fd(), address, size) }
    })
}

/// Lets the bound socket take connections.
pub(super) fn listen(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers involved.
    check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })
}

fn with_address(
    path: &Path,
    call: impl FnOnce(*const libc::sockaddr, libc::socklen_t) -> libc::c_int,
) -> io::Result<()> {
    let (short, _directory) = shorten(path)?;
    let address = address(&short)?;
    let size = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or(0);
    check(call((&raw const address).cast(), size))
}

/// A path that fits into an address, and what keeps it valid.
fn shorten(path: &Path) -> io::Result<(PathBuf, Option<File>)> {
    let name = match path.file_name() {
        Some(name) if path.as_os_str().len() > PATH_LIMIT => name,
        _ => return Ok((path.to_owned(), None)),
    };
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let mut options = File::options();
    options
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY);
    let directory = options.open(parent.unwrap_or(Path::new(".")))?;
    let own = format!("/proc/self/fd/{}", directory.as_raw_fd());
    Ok((Path::new(&own).join(name), Some(directory)))
}

fn address(path: &Path) -> io::Result<libc::sockaddr_un> {
    let bytes = path.as_os_str().as_bytes();
    // SAFETY: sockaddr_un is plain data for which all zeroes is a valid value.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).unwrap_or(0);
    // The last byte stays NUL.
    if bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    Ok(address)
}

fn check(answer: libc::c_int) -> io::Result<()> {
    match answer {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
