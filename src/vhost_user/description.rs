//! One virtqueue as the front end has described it so far.
//!
//! The messages that describe a queue come in several orders, before and after the features, and again after a stop. The queue
//! is ready when all have come. Whether it runs is known to the device.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::protocol::{F_PROTOCOL_FEATURES, VringAddr, protocol};
use crate::Result;
use crate::virtio::QueueSetup;
use crate::virtio::memory::GuestMemory;
use crate::virtio::notify::{CallFd, KickFd, Signal};

/// What the front end has said about one queue.
#[derive(Debug, Default)]
pub(super) struct VringDescription {
    pub(super) size: u16,
    pub(super) base: u16,
    pub(super) addr: Option<VringAddr>,
    pub(super) kick: Option<KickFd>,
    pub(super) call: Option<Arc<CallFd>>,
    pub(super) err: Option<Arc<CallFd>>,
    pub(super) enabled: bool,
}

impl VringDescription {
    /// True when everything is there that a start needs, except memory.
    pub(super) fn is_ready(&self, features: Option<u64>) -> bool {
        let enabled = features.is_some_and(|bits| self.enabled || bits & F_PROTOCOL_FEATURES == 0);
        enabled && self.size != 0 && self.addr.is_some() && self.kick.is_some()
    }

    /// What the device needs to serve the queue. It shares the fds.
    ///
    /// # Errors
    /// An address is not in the guest's memory.
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
            kick: self.kick.clone(),
            call: signal(&self.call),
            err: signal(&self.err),
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

/// The same eventfd, as the device signals it.
pub(super) fn signal(fd: &Option<Arc<CallFd>>) -> Option<Arc<dyn Signal>> {
    fd.clone().map(|fd| -> Arc<dyn Signal> { fd })
}
