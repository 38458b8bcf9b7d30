//! Kick and call: the guest announces new requests, and the device announces finished ones.
//!
//! Used by queue workers, which watch the [`KickFd`] in their AioContext and give a [`Signal`] once per batch. The transport
//! chooses the signal: a [`CallFd`], or the interrupt of a machine of this process.
//!
//! Eventfds may come from a peer that we do not trust. It has the same open file, so it can change O_NONBLOCK, fill the
//! counter, or read it at any time.
//!
//! # Invariants
//! 1. Only eventfds are accepted. Another file could block, or be readable for ever.
//! 2. A kick is watched edge-triggered and never read, so a peer that changes its counter harms only itself.
//! 3. Signalling a call cannot block; see `signal`.
#![deny(unsafe_code)] // children that need it say why

use std::fmt;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::{Error, ErrorKind, Result};

mod signal;
#[cfg(test)]
mod tests;

/// The way from a device to its guest.
///
/// Called on threads that drive queues, so an implementation neither blocks nor waits.
pub trait Signal: fmt::Debug + Send + Sync {
    /// Notifies the guest. Signals that the guest has not seen yet may merge into one.
    fn signal(&self);
}

/// The eventfd by which a guest announces requests. Never read.
#[derive(Debug)]
pub(crate) struct KickFd(OwnedFd);

/// The eventfd by which a guest learns of finished requests; also used for the error eventfd.
#[derive(Debug)]
pub struct CallFd(OwnedFd);

impl KickFd {
    /// Accepts `fd` from a peer.
    ///
    /// # Errors
    /// `InvalidArgument` if it is not an eventfd.
    pub(crate) fn new(fd: OwnedFd) -> Result<Self> {
        check_eventfd(&fd, "kick").map(|()| KickFd(fd))
    }
}

impl AsRawFd for KickFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl CallFd {
    /// Accepts `fd` from a peer.
    ///
    /// # Errors
    /// `InvalidArgument` if it is not an eventfd.
    pub fn new(fd: OwnedFd) -> Result<Self> {
        check_eventfd(&fd, "call").map(|()| CallFd(fd))
    }
}

impl Signal for CallFd {
    /// Adds one to the counter and wakes the threads that wait for it. Never blocks; a full counter stays full.
    fn signal(&self) {
        signal::signal(&self.0);
    }
}

/// Only an eventfd shows an `eventfd-count` in its fdinfo.
fn check_eventfd(fd: &OwnedFd, role: &str) -> Result<()> {
    let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
    let info = fs::read_to_string(path).map_err(|error| {
        Error::os(
            format!("cannot check that the {role} fd is an eventfd"),
            error,
        )
    })?;
    if info.lines().any(|line| line.starts_with("eventfd-count:")) {
        return Ok(());
    }
    let message = format!("the {role} fd is not an eventfd");
    Err(Error::new(ErrorKind::InvalidArgument, message))
}
