//! How a device reaches its guest: a socket for other machines, or registers on our own.
#![forbid(unsafe_code)]

#[cfg(feature = "kvm")]
use std::sync::Arc;

#[cfg(feature = "kvm")]
use crate::kvm::Announcement;
#[cfg(feature = "kvm")]
use crate::kvm::mmio::Mmio;
use crate::vhost_user::Listener;

/// A running transport.
pub(super) enum Transport {
    /// Front ends connect.
    VhostUser(Listener),
    /// On the machine of this process.
    #[cfg(feature = "kvm")]
    Machine(Arc<Mmio>, Announcement),
}

impl Transport {
    /// Whether a driver is there that can use the device.
    pub(super) fn is_connected(&self) -> bool {
        match self {
            Transport::VhostUser(listener) => listener.is_connected(),
            #[cfg(feature = "kvm")]
            Transport::Machine(mmio, _) => mmio.is_driven(),
        }
    }

    /// Serves nobody any more, and calls `done` on the home thread when nothing is in flight.
    pub(super) fn shutdown(&self, done: impl FnOnce() + Send + 'static) {
        match self {
            Transport::VhostUser(listener) => listener.shutdown(done),
            #[cfg(feature = "kvm")]
            Transport::Machine(mmio, _) => mmio.shutdown(done),
        }
    }

    /// Holds a device on a machine, and calls `done` when nothing is in flight; other machines are none of its business.
    #[cfg(feature = "kvm")]
    pub(super) fn hold(&self, done: impl FnOnce() + Send + 'static) {
        match self {
            Transport::VhostUser(_) => done(),
            Transport::Machine(mmio, _) => mmio.hold(done),
        }
    }

    /// Lets a held device go on.
    #[cfg(feature = "kvm")]
    pub(super) fn release(&self) {
        match self {
            Transport::VhostUser(_) => {}
            Transport::Machine(mmio, _) => mmio.release(),
        }
    }

    /// Where the registers are and which interrupt line the device has; `None` if it is not on a machine.
    pub(super) fn place(&self) -> Option<(u64, u32)> {
        match self {
            Transport::VhostUser(_) => None,
            #[cfg(feature = "kvm")]
            Transport::Machine(_, place) => Some((place.registers.start, place.gsi)),
        }
    }

    /// Why the device asked its driver for a reset the last time.
    pub(super) fn fault(&self) -> Option<String> {
        match self {
            Transport::VhostUser(_) => None,
            #[cfg(feature = "kvm")]
            Transport::Machine(mmio, _) => mmio.fault(),
        }
    }
}
