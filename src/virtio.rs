//! Virtio devices, free of any transport.
//!
//! A [`VirtioDevice`] offers features, a configuration space and queues. A transport (vhost-user, or a machine of our own)
//! negotiates with the guest, keeps the guest's memory, and starts and stops the queues. Devices never see a socket
//! or a hypervisor, transports never look into a request.
//!
//! * `memory`: what the guest shares with us ([`GuestMemory`])
//! * `queue`: the split virtqueue, which gives a model one [`Chain`] for each request
//! * `notify`: kick and call ([`Signal`])
//! * [`worker`]: the life of a queue, and what a device model implements for it
//! * `fault`: what goes wrong, on its way to the owner of the device
//! * `pluggable`: what `-device` needs to know of a device model ([`ModelType`])
//! * [`blk`]: the disk
#![deny(unsafe_code)] // children that need it say why

use std::sync::{Arc, Weak};

use crate::Result;

pub mod blk;
mod countdown;
pub(crate) mod fault;
pub(crate) mod memory;
pub(crate) mod notify;
pub(crate) mod pluggable;
pub(crate) mod queue;
pub mod worker;

pub(crate) use countdown::Countdown;
pub use fault::{DeviceFault, FaultReporter, FaultWatcher, IoStatus, RequestFailure};
pub use memory::{GuestMemory, GuestSlice, MemoryRegion};
pub use notify::{CallFd, KickFd, Signal};
pub use pluggable::{FinishCallback, ModelOptions, ModelType, Named, PluggableDevice};
pub use queue::{Broken, Chain};

/// Feature bit: chains may live in tables of their own.
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// Feature bit: both sides say at which ring index they want to be notified.
pub const F_EVENT_IDX: u64 = 1 << 29;
/// Feature bit: virtio 1.0 or later. Every device here requires it.
pub const F_VERSION_1: u64 = 1 << 32;

/// Feature bit: single queues can be reset. The transport's business.
pub const F_RING_RESET: u64 = 1 << 40;

/// Called once when a stopped queue is quiet, with the next available index.
pub type Stopped = Box<dyn FnOnce(u16) + Send>;

/// Called once when a held device rests.
pub type Rested = Box<dyn FnOnce() + Send>;

/// What a transport and the contexts allow a device. Known before a guest sees any field of the device's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLimits {
    /// The number of queues.
    pub queues: u16,
    /// The largest size of a queue.
    pub queue_size: u16,
}

/// Everything that a transport knows about a queue it starts.
#[derive(Debug)]
pub struct QueueSetup {
    /// The number of descriptors, a power of two.
    pub size: u16,
    /// The guest physical address of the descriptor table.
    pub descriptors: u64,
    /// The guest physical address of the available ring.
    pub available: u64,
    /// The guest physical address of the used ring.
    pub used: u64,
    /// The available index at which to begin.
    pub next_avail: u16,
    /// The features that the guest accepted.
    pub features: u64,
    /// The guest's memory. The queue keeps it until it has stopped.
    pub memory: GuestMemory,
    /// Guest to device; without one the queue is looked at only when it starts.
    pub kick: Option<KickFd>,
    /// Device to guest; without one the guest polls.
    pub call: Option<Arc<dyn Signal>>,
    /// Signalled when the guest breaks the queue.
    pub err: Option<Arc<dyn Signal>>,
}

/// One virtio device; the transport owns negotiation.
///
/// All methods may be called from any thread. The work itself is done by the context that each queue belongs to.
pub trait VirtioDevice: Send + Sync {
    /// The number of the device's type, as section 5 of the specification lists them.
    fn device_type(&self) -> u32;

    /// The feature bits on offer. Never bit 30, which belongs to vhost-user.
    fn features(&self, limits: DeviceLimits) -> u64;

    /// The number of queues.
    fn queue_count(&self) -> u16;

    /// The largest queue size that [`start_queue`](VirtioDevice::start_queue) accepts.
    fn queue_size_max(&self) -> u16;

    /// Reads configuration space; beyond its end it reads as 0.
    fn read_config(&self, limits: DeviceLimits, offset: usize, data: &mut [u8]);

    /// Writes configuration space; what is not writable is ignored.
    fn write_config(&self, offset: usize, data: &[u8]);

    /// Signals `listener`, in place of an earlier one, whenever the configuration space has changed.
    fn watch_config(&self, listener: Weak<dyn Signal>);

    /// Tells the owner of the device what goes wrong between the device and its driver. For transports, on any thread and with
    /// any lock held.
    fn report(&self, fault: DeviceFault);

    /// Starts a queue on its context. While it is stopping, it starts when the stop is over.
    ///
    /// # Errors
    /// `NotFound` for an index beyond the last queue, `Busy` if it runs, `InvalidArgument` for a setup that does not
    /// hold together (ring outside of the guest's memory, fd that is no eventfd). Nothing has started then.
    fn start_queue(&self, index: u16, setup: QueueSetup) -> Result<()>;

    /// Takes no more requests, waits for those in flight without blocking, and calls `done` on the queue's context.
    /// A queue that does not run is done at once, on the calling thread, with index 0. A start that waits for an earlier
    /// stop is cancelled.
    fn stop_queue(&self, index: u16, done: Stopped);

    /// Whether a queue was started and not asked to stop since.
    fn is_started(&self, index: u16) -> bool;

    /// Takes no more requests of any queue, and calls `rested` when those in flight have finished: then the guest's memory
    /// does not change. Queues that start meanwhile are held from the beginning. `rested` is called on the calling thread or
    /// on a queue's context, at the latest by [`release`](VirtioDevice::release). Holds add up.
    fn hold(&self, rested: Rested);

    /// Ends one [`hold`](VirtioDevice::hold). After the last one the queues go on where they were.
    fn release(&self);

    /// Replaces the call, also while the queue runs. The new one is signalled once, as requests may have finished in
    /// between.
    ///
    /// # Errors
    /// As for [`start_queue`](VirtioDevice::start_queue).
    fn set_call(&self, index: u16, call: Option<Arc<dyn Signal>>) -> Result<()>;

    /// Replaces the kick fd, also while the queue runs. The queue is looked at once, as if kicked.
    ///
    /// # Errors
    /// As for [`start_queue`](VirtioDevice::start_queue).
    fn set_kick(&self, index: u16, kick: Option<KickFd>) -> Result<()>;
}
