//! One virtqueue as the front end has described it so far.
//!
//! The messages that describe a queue come in several orders, before and after the features, and again after a stop. The queue
//! is ready when all have come. Whether it runs is known to the device.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::protocol::{F_PROTOCOL_FEATURES, VringAddr, protocol};
use crate::virtio::QueueSetup;
use crate::virtio::memory::GuestMemory;
use crate::virtio::notify::{CallFd, Signal};
use crate::{Error, Result};

/// What the front end has said about one queue.
#[derive(Debug, Default)]
pub(super) struct VringDescription {
    pub(super) size: u16,
    pub(super) base: u16,
    pub(super) addr: Option<VringAddr>,
    pub(super) kick: Option<OwnedFd>,
    pub(super) call: Option<OwnedFd>,
    pub(super) err: Option<OwnedFd>,
    pub(super) enabled: bool,
}

impl VringDescription {
    /// True when everything is there that a start needs, except memory.
    pub(super) fn is_ready(&self, features: Option<u64>) -> bool {
        let enabled = features.is_some_and(|bits| self.enabled || bits & F_PROTOCOL_FEATURES == 0);
        enabled && self.size != 0 && self.addr.is_some() && self.kick.is_some()
    }

    /// What the device needs to serve the queue, with fds of its own.
    ///
    /// # Errors
    /// An address is not in the guest's memory, or the process is out of fds.
    pub(super) fn setup(&self, features: u64, memory: &GuestMemory) -> Result<QueueSetup> {
        let addr = self
            .addr
            .ok_or_else(|| protocol("a queue has no addresses".to_string()))?;
        Ok(QueueSetup {
            size: self.size,
            descriptors: translate(memory, addr.descriptors, "descriptor table")?,
            available: translate(memory, addr.available, "available ring")?,
            used: translate(memory, addr.used, "used ring")?,
            next_avail: self.base,
            features: features & !F_PROTOCOL_FEATURES,
            memory: memory.clone(),
            kick: duplicate(self.kick.as_ref())?,
            call: signal(self.call.as_ref())?,
            err: signal(self.err.as_ref())?,
        })
    }
}

/// The guest physical address of a ring part.
pub(super) fn translate(memory: &GuestMemory, user_addr: u64, what: &str) -> Result<u64> {
    memory.user_to_guest(user_addr).ok_or_else(|| {
        protocol(format!(
            "the {what} at {user_addr:#x} is outside the guest's memory"
        ))
    })
}

/// A duplicate for the device. The original stays for the next start.
pub(super) fn duplicate(fd: Option<&OwnedFd>) -> Result<Option<OwnedFd>> {
    fd.map(|fd| {
        fd.try_clone()
            .map_err(|error| Error::os("cannot duplicate a queue's eventfd", error))
    })
    .transpose()
}

/// A signal to the front end, by a duplicate of the eventfd.
pub(super) fn signal(fd: Option<&OwnedFd>) -> Result<Option<Arc<dyn Signal>>> {
    let Some(fd) = duplicate(fd)? else {
        return Ok(None);
    };
    Ok(Some(Arc::new(CallFd::new(fd)?)))
}

/// Refuses an fd that is not an eventfd: a write to another kind of file could block, and it could be readable for ever.
pub(super) fn require_eventfd(fd: BorrowedFd<'_>, what: &str) -> Result<()> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let target = std::fs::read_link(&link)
        .map_err(|error| Error::os(format!("cannot examine a {what} fd at {link}"), error))?;
    if target.as_os_str() == "anon_inode:[eventfd]" {
        return Ok(());
    }
    Err(protocol(format!(
        "the {what} fd is '{}', expected an eventfd",
        target.display()
    )))
}

/// [`require_eventfd`] for an fd that may be absent.
pub(super) fn require_eventfd_or_none(fd: Option<&OwnedFd>, what: &str) -> Result<()> {
    fd.map_or(Ok(()), |fd| require_eventfd(fd.as_fd(), what))
}
