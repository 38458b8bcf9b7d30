//! `fusermount3`, which mounts for users who may not.
//!
//! It gets one end of a socket as its standard input, and sends the connection to the kernel through it.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::vhost_user::socket::receive;

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
    let mut fds = Vec::new();
    receive(socket.as_fd(), &mut [0], &mut fds)?;
    let fd = fds.into_iter().next();
    fd.ok_or_else(|| io::Error::other(format!("{PROGRAM} sent no connection")))
}
