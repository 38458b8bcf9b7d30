//! What the standard library does not set on TCP sockets.
#![allow(unsafe_code)] // setsockopt, socket, bind and listen

use std::io;
use std::mem;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BACKLOG: libc::c_int = 128;

/// Lets the kernel ask whether a silent peer is still there. What a listening socket has, its connections have.
pub(super) fn keep_alive(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE)
}

/// Listens at a port of all IPv6 addresses of the host, and of no IPv4 address.
pub(super) fn listen_ipv6_only(port: u16) -> io::Result<TcpListener> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers involved.
    let fd = check(unsafe { libc::socket(libc::AF_INET6, kind, 0) })?;
    // SAFETY: the call above has just made this fd for us.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let listener = TcpListener::from(socket);
    let borrowed = std::os::fd::AsFd::as_fd(&listener);
    set(borrowed, libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
    set(borrowed, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)?;
    // SAFETY: all zeroes are a valid sockaddr_in6, that of any address.
    let mut address: libc::sockaddr_in6 = unsafe { mem::zeroed() };
    address.sin6_family = libc::sa_family_t::try_from(libc::AF_INET6).unwrap_or_default();
    address.sin6_port = port.to_be();
    let size = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or(0);
    let place = (&raw const address).cast();
    // SAFETY: `place` points to an address of `size` bytes.
    check(unsafe { libc::bind(listener.as_raw_fd(), place, size) })?;
    // SAFETY: no pointers involved.
    check(unsafe { libc::listen(listener.as_raw_fd(), BACKLOG) })?;
    Ok(listener)
}

fn set(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let size = libc::socklen_t::try_from(size_of_val(&on)).unwrap_or(0);
    let value = (&raw const on).cast();
    // SAFETY: `value` points to `size` bytes.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value, size) }).map(drop)
}

fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    match answer {
        0.. => Ok(answer),
        _ => Err(io::Error::last_os_error()),
    }
}
