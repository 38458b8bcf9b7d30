//! The system calls of the transport: receive bytes with the fds that came with them, and send bytes. The FUSE export receives the
//! connection to the kernel from `fusermount3` in the same way.
//!
//! None of them blocks, whatever the flags of the socket are. ReceivedBytes fds are close-on-exec from the start and owned at once,
//! so no path can leak one.
#![allow(unsafe_code)] // recvmsg and send, and taking ownership of the fds that the kernel hands over

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// How many fds one call accepts; the kernel closes what does not fit and says so.
const FDS_PER_CALL: usize = 16;
/// Control buffer in words, so that it is aligned for a `cmsghdr`: one header and the fds.
const CONTROL_WORDS: usize = 2 + FDS_PER_CALL;

/// What one call brought.
#[derive(Debug)]
pub(crate) struct ReceivedBytes {
    /// Bytes stored; 0 means that the peer has closed its end.
    pub(crate) bytes: usize,
    /// More fds were sent than fit; the kernel closed the rest.
    pub(crate) fds_lost: bool,
}

/// Receives into `buffer` without blocking and appends the fds that came along to `fds`.
///
/// # Errors
/// The kernel's; EMFILE when the process may not have the fds that came.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<ReceivedBytes> {
    let mut control = [0u64; CONTROL_WORDS];
    let mut vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: msghdr is plain data for which all zeroes is a valid value.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = mem::size_of_val(&control);
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the header names `buffer` and `control`, which outlive the call, with their true sizes.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
    let bytes = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    let before = fds.len();
    take_fds(&header, fds);
    let fds_lost = header.msg_flags & libc::MSG_CTRUNC != 0;
    if fds_lost && fds.len() - before < FDS_PER_CALL {
        // There was room for more.
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    Ok(ReceivedBytes { bytes, fds_lost })
}

/// Sends what the socket takes of `bytes` without blocking and without SIGPIPE.
pub(super) fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: pointer and length describe `bytes`, which outlives the call.
    let sent = unsafe {
        libc::send(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            flags,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Takes ownership of every fd in the control messages of a header that `recvmsg` has just filled in.
fn take_fds(header: &libc::msghdr, fds: &mut Vec<OwnedFd>) {
    // SAFETY: the kernel has set msg_control and msg_controllen to what it wrote.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !message.is_null() {
        take_message_fds(message, fds);
        // SAFETY: `message` is a control message of this header.
        message = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
}

fn take_message_fds(message: *const libc::cmsghdr, fds: &mut Vec<OwnedFd>) {
    // SAFETY: `message` points at a control message that the kernel wrote.
    let control = unsafe { ptr::read(message) };
    if control.cmsg_level != libc::SOL_SOCKET || control.cmsg_type != libc::SCM_RIGHTS {
        return;
    }
    // SAFETY: computes a size, touches nothing.
    let head = unsafe { libc::CMSG_LEN(0) } as usize;
    // SAFETY: `message` points at a control message that the kernel wrote.
    let data = unsafe { libc::CMSG_DATA(message) };
    let count = control.cmsg_len.saturating_sub(head) / size_of::<RawFd>();
    for index in 0..count {
        // SAFETY: cmsg_len says that `count` fds follow.
        let at = unsafe { data.cast::<RawFd>().add(index) };
        // SAFETY: `at` is inside the control message; it need not be aligned.
        let fd = unsafe { ptr::read_unaligned(at) };
        // SAFETY: the kernel has just installed this fd for us, and no other code knows it.
        fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}
