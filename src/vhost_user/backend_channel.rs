//! The socket for messages from the back end to the front end, which came with SET_BACKEND_REQ_FD.
//!
//! Used by [`super::session`], which gives it to the device as the listener of its configuration space.
//!
//! # Threads
//! A device reports a change on any thread; sending neither blocks nor waits.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::protocol::config_change_bytes;
use super::socket;
use crate::virtio::notify::Signal;

/// The socket. Each change is one message.
#[derive(Debug)]
pub(super) struct BackendChannel(UnixStream);

impl BackendChannel {
    /// `None` if it is no Unix socket.
    pub(super) fn new(socket: OwnedFd) -> Option<BackendChannel> {
        let socket = UnixStream::from(socket);
        socket
            .local_addr()
            .is_ok()
            .then_some(BackendChannel(socket))
    }
}

impl Signal for BackendChannel {
    /// Tells the front end to read the configuration space again.
    fn signal(&self) {
        // A full socket holds the same message already, and a front end that has gone needs none.
        let _ = socket::send(self.0.as_fd(), &config_change_bytes());
    }
}
