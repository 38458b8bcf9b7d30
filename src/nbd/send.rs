//! Sending several pieces of memory through a socket, without a signal if the peer is gone.
#![allow(unsafe_code)] // sendmsg

use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sends what the socket takes of the slices.
///
/// # Errors
/// The kernel's.
pub(super) fn send(socket: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: all zeroes are a valid msghdr.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    // An IoSlice is an iovec, and sendmsg writes to neither.
    message.msg_iov = slices.as_ptr().cast_mut().cast();
    message.msg_iovlen = slices.len();
    // SAFETY: the message describes the slices, which are borrowed to the end of the call.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}
