//! `fusermount3`, which mounts for users who may not.
//!
//! It gets one end of a socket as its standard input, and sends the connection to the kernel through it.
#![allow(unsafe_code)] // recvmsg, which takes the fd

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::ptr;

const PROGRAM: &str = "fusermount3";
/// Tells it which fd the socket is.
const SOCKET: &str = "_FUSE_COMMFD";

/// Mounts at `mountpoint` with these options.
///
/// # Errors
/// `Os` if there is no such program; what it says if it refuses.
pub(super) fn mount(mountpoint: &Path, options: &str) -> io::Result<File> {
    let (ours, theirs) = UnixStream::pair()?;
    let output = Command::new(PROGRAM)
        .arg("-o")
        .arg(format!("rw,nosuid,nodev,{options}"))
        .arg("--")
        .arg(mountpoint)
        .env(SOCKET, "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(not_run)?;
    if !output.status.success() {
        return Err(io::Error::other(complaint(&output.stderr)));
    }
    receive_fd(&ours).map(File::from)
}

/// Takes the mount away.
///
/// # Errors
/// As for [`mount`].
pub(super) fn unmount(mountpoint: &Path) -> io::Result<()> {
    let output = Command::new(PROGRAM)
        .args(["-u", "-z", "--"])
        .arg(mountpoint)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(not_run)?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(complaint(&output.stderr))),
    }
}

fn not_run(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{PROGRAM}: {error}"))
}

/// The last line of what the program has said.
fn complaint(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.map_or_else(
        || format!("{PROGRAM} failed"),
        |line| line.trim().to_owned(),
    )
}

/// The fd that was sent through a socket whose other end is closed.
fn receive_fd(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0_u8];
    let mut control = [0_u64; 4];
    let mut vector = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: byte.len(),
    };
    // SAFETY: msghdr is plain data for which all zeroes is a valid value.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = mem::size_of_val(&control);
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the header names `byte` and `control`, which outlive the call, with their true sizes.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    sent_fd(&header).ok_or_else(|| io::Error::other(format!("{PROGRAM} sent no connection")))
}

/// The fd in the first control message of a header that `recvmsg` has just filled in. There was room for one message.
fn sent_fd(header: &libc::msghdr) -> Option<OwnedFd> {
    // SAFETY: the kernel has set msg_control and msg_controllen to what it wrote.
    let message = unsafe { libc::CMSG_FIRSTHDR(header) };
    if message.is_null() {
        return None;
    }
    // SAFETY: `message` points at a control message that the kernel wrote.
    let control = unsafe { ptr::read(message) };
    if control.cmsg_level != libc::SOL_SOCKET || control.cmsg_type != libc::SCM_RIGHTS {
        return None;
    }
    // SAFETY: `message` points at a control message that the kernel wrote.
    let data = unsafe { libc::CMSG_DATA(message) };
    // SAFETY: such a message has at least one fd, which need not be aligned.
    let fd = unsafe { ptr::read_unaligned(data.cast::<RawFd>()) };
    // SAFETY: the kernel has just installed this fd for us, and no other code knows it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}
