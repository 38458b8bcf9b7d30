//! Kick and call: the guest announces new requests, and the device announces finished ones.
//!
//! Used by queue workers, which watch the [`KickFd`] in their AioContext and give a [`Signal`] once per batch. The transport
//! chooses the signal: a [`CallFd`], or the interrupt of a machine of this process.
//!
//! Eventfds may come from a peer that we do not trust. It has the same open file, so it can change O_NONBLOCK, fill the
//! counter, or read it at any time.
//!
//! The transport and the queue share one fd for each eventfd: a device with many queues would run out of fds otherwise.
//!
//! # Invariants
//! 1. Only eventfds are accepted. Another file could block, or be readable for ever.
//! 2. A kick is watched edge-triggered and never read, so a peer that changes its counter harms only itself.
//! 3. Signalling a call cannot block; see `signal`.
#![deny(unsafe_code)] // children that need it say why

use std::fmt;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

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

/// The eventfd by which a guest announces requests. Never read. Clones are the same fd, so one queue at a time may watch it.
#[derive(Clone, Debug)]
pub struct KickFd(Arc<File>);

/// The eventfd by which a guest learns of finished requests; also used for the error eventfd.
#[derive(Debug)]
pub struct CallFd(OwnedFd);

impl KickFd {
    /// Accepts `fd` from a peer.
    ///
    /// # Errors
    /// `InvalidArgument` if it is not an eventfd.
    pub fn new(fd: OwnedFd) -> Result<Self> {
        check_eventfd(&fd, "kick").map(|()| KickFd(Arc::new(File::from(fd))))
    }

    /// Announces requests in the guest's place, by an eventfd that we have made and that does not block.
    pub fn ring(&self) {
        // A full counter means that it has been rung.
        let _ = std::io::Write::write(&mut &*self.0, &1_u64.to_ne_bytes());
    }

    /// For tests: not checked.
    #[cfg(test)]
    pub(crate) fn unchecked(file: File) -> KickFd {
        KickFd(Arc::new(file))
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
        CallFd::for_role(fd, "call")
    }

    /// The same, with another name in the error.
    pub(crate) fn for_role(fd: OwnedFd, role: &str) -> Result<Self> {
        check_eventfd(&fd, role).map(|()| CallFd(fd))
    }
}

impl Signal for CallFd {
    /// Adds one to the counter and wakes the threads that wait for it. Never blocks; a full counter stays full.
    fn signal(&self) {
        signal::signal(&self.0);
    }
}

/// Refuses an fd that is not an eventfd. Needs no fd of its own, so the answer is right when they have run out.
fn check_eventfd(fd: &OwnedFd, role: &str) -> Result<()> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let target = fs::read_link(&link)
        .map_err(|error| Error::os(format!("cannot examine the {role} fd at {link}"), error))?;
    if target.as_os_str() == "anon_inode:[eventfd]" {
        return Ok(());
    }
    let found = target.display();
    let message = format!("the {role} fd is '{found}', expected an eventfd");
    Err(Error::new(ErrorKind::InvalidArgument, message))
}
