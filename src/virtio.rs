//! Virtio devices, free of any transport.
//!
//! A [`VirtioDevice`] offers features, a configuration space and queues. A transport (vhost-user, or a machine of our own)
//! negotiates with the guest, keeps the guest's memory, and starts and stops the queues. Devices never see a socket
//! or a hypervisor, transports never look into a request.
//!
//! * [`memory`]: what the guest shares with us
//! * [`queue`]: the split virtqueue
//! * [`notify`]: kick and call
//! * [`pluggable`]: what `-device` needs to know of a device model
//! * [`blk`]: the disk
#![deny(unsafe_code)] // children that need it say why

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::Result;
use memory::GuestMemory;
use notify::Signal;

pub mod blk;
pub mod memory;
pub mod notify;
pub mod pluggable;
pub mod queue;

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
    pub kick: Option<OwnedFd>,
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
    fn features(&self) -> u64;

    /// The number of queues.
    fn queue_count(&self) -> u16;

    /// The largest queue size that [`start_queue`](VirtioDevice::start_queue) accepts.
    fn queue_size_max(&self) -> u16;

    /// Reads configuration space; beyond its end it reads as 0.
    fn read_config(&self, offset: usize, data: &mut [u8]);

    /// Writes configuration space; what is not writable is ignored.
    fn write_config(&self, offset: usize, data: &[u8]);

    /// Starts a queue on its context.
    ///
    /// # Errors
    /// `NotFound` for an index beyond the last queue, `Busy` if it runs, `InvalidArgument` for a setup that does not
    /// hold together (ring outside of the guest's memory, fd that is no eventfd). Nothing has started then.
    fn start_queue(&self, index: u16, setup: QueueSetup) -> Result<()>;

    /// Takes no more requests, waits for those in flight without blocking, and calls `done` on the queue's context.
    /// A queue that does not run is done at once, on the calling thread, with index 0.
    fn stop_queue(&self, index: u16, done: Stopped);

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
    fn set_kick(&self, index: u16, kick: Option<OwnedFd>) -> Result<()>;
}
