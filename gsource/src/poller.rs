//! Readiness events, in epoll's bits, and the pollers that report them.
#![deny(unsafe_code)]

pub(crate) mod epoll;
pub(crate) mod uring;

/// The fd can be read.
pub(crate) const READABLE: u32 = libc::EPOLLIN.cast_unsigned();
/// The fd can be written.
pub(crate) const WRITABLE: u32 = libc::EPOLLOUT.cast_unsigned();
/// The peer hung up.
pub(crate) const HANGUP: u32 = libc::EPOLLHUP.cast_unsigned();
/// The fd is in error.
pub(crate) const ERROR: u32 = libc::EPOLLERR.cast_unsigned();
/// Found by busy-polling; not a bit of epoll's.
pub(crate) const POLLED: u32 = 1 << 27;
/// Report changes only.
pub(crate) const EDGE: u32 = libc::EPOLLET.cast_unsigned();
