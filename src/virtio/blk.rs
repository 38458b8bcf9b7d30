//! The virtio-blk device: a block node as a guest's disk.
//!
//! Used by the transports through [`VirtioDevice`]. Each queue has an AioContext of its own, handed in when the disk is
//! made, and a channel of its own to the node; queues share only what never changes. So queues of one disk may live
//! on different contexts without ever meeting.
//!
//! * `config`: what the guest reads about the disk
//! * `request`: what the guest asks for
//! * `queue`: a queue's life: start, kick, stop
//! * `batch`: the work of one iteration
//! * `pluggable`, `options`: the disk as `-device virtio-blk`
//!
//! # Threads
//! Any thread may call the methods; requests are served by the thread that drives the queue's AioContext.
//!
//! # Invariants
//! 1. The disk is written back: a finished write may be in the page cache, a finished flush is in the file. The
//!    guest is told so (`writeback` is 1) and cannot change it.
#![deny(unsafe_code)] // children that need it say why

use std::os::fd::OwnedFd;
use std::sync::Arc;

use gsource::AioContext;

use super::notify::Signal;
use super::queue::Broken;
use super::{QueueSetup, Stopped, VirtioDevice};
use crate::block::{Access, Edge, Node, Parent, Permissions};
use crate::{Error, ErrorKind, Result};

mod batch;
mod config;
mod options;
mod pluggable;
mod queue;
mod request;
mod stats;

pub use options::BlkOptions;
pub use pluggable::MODEL;
use queue::Queue;
pub use stats::QueueStats;

/// The largest ring that the disk serves.
pub const QUEUE_SIZE_MAX: u16 = 32768;

/// The most queues that a disk has.
pub const QUEUES_MAX: usize = 1024;

/// A virtio disk.
#[derive(Debug)]
pub struct Blk {
    shared: Arc<Shared>,
    queues: Box<[Arc<Queue>]>,
}

/// What all queues of a disk know and nobody changes.
#[derive(Debug)]
struct Shared {
    edge: Edge,
    serial: [u8; request::ID_LEN],
}

impl Blk {
    /// The disk of device `id`. It offers `node`, with one queue for each of `contexts`. The guest reads the first 20 bytes
    /// of `serial` as the disk's id.
    ///
    /// # Errors
    /// `Busy` if another device writes the node, `InvalidArgument` without a context or with more than [`QUEUES_MAX`].
    pub fn new(id: &str, node: &Arc<Node>, contexts: Vec<AioContext>, serial: &str) -> Result<Blk> {
        if contexts.is_empty() || contexts.len() > QUEUES_MAX {
            let message = format!("num-queues must be between 1 and {QUEUES_MAX}");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let shared = Arc::new(Shared {
            edge: node.attach(Parent::new("device", id), access(node))?,
            serial: request::pad_id(serial),
        });
        let queues = contexts.into_iter();
        Ok(Blk {
            queues: queues.map(|aio| Queue::new(&shared, aio)).collect(),
            shared,
        })
    }

    /// The node on offer.
    pub fn node(&self) -> &Arc<Node> {
        self.shared.edge.node()
    }

    /// What a queue has done so far; zeroes for a queue that does not exist.
    pub fn stats(&self, index: u16) -> QueueStats {
        let queue = self.queues.get(usize::from(index));
        queue.map(|queue| queue.stats()).unwrap_or_default()
    }

    /// What all queues together have done so far.
    pub fn total(&self) -> QueueStats {
        let queues = self.queues.iter().map(|queue| queue.stats());
        queues.fold(QueueStats::default(), QueueStats::plus)
    }

    /// How the guest broke a queue, if it did.
    pub fn broken(&self, index: u16) -> Option<Broken> {
        self.queues.get(usize::from(index))?.broken()
    }

    fn queue(&self, index: u16) -> Result<&Arc<Queue>> {
        self.queues.get(usize::from(index)).ok_or_else(|| {
            let count = self.queues.len();
            let message = format!("the disk has {count} queues, there is no queue {index}");
            Error::new(ErrorKind::NotFound, message)
        })
    }
}

/// What a disk does with its node. Others may read it, copy it to another place and resize it.
fn access(node: &Node) -> Access {
    let needs = match node.is_read_only() {
        true => Permissions::CONSISTENT_READ,
        false => Permissions::CONSISTENT_READ.and(Permissions::WRITE),
    };
    Access {
        needs,
        shares: Permissions::ALL.without(Permissions::WRITE),
    }
}

impl VirtioDevice for Blk {
    fn device_type(&self) -> u32 {
        2
    }

    fn features(&self) -> u64 {
        config::features(self.node(), self.queues.len())
    }

    fn queue_count(&self) -> u16 {
        u16::try_from(self.queues.len()).unwrap_or(u16::MAX)
    }

    fn queue_size_max(&self) -> u16 {
        QUEUE_SIZE_MAX
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let space = config::space(self.node(), self.queue_count());
        for (at, byte) in data.iter_mut().enumerate() {
            let at = offset.checked_add(at);
            *byte = at.and_then(|at| space.get(at)).copied().unwrap_or(0);
        }
    }

    /// Nothing is writable: `writeback` could be only with CONFIG_WCE, which is not offered.
    fn write_config(&self, _offset: usize, _data: &[u8]) {}

    fn start_queue(&self, index: u16, setup: QueueSetup) -> Result<()> {
        self.queue(index)?.start(setup)
    }

    fn stop_queue(&self, index: u16, done: Stopped) {
        match self.queue(index) {
            Ok(queue) => queue.stop(done),
            Err(_) => done(0),
        }
    }

    fn set_call(&self, index: u16, call: Option<Arc<dyn Signal>>) -> Result<()> {
        self.queue(index)?.set_call(call);
        Ok(())
    }

    fn set_kick(&self, index: u16, kick: Option<OwnedFd>) -> Result<()> {
        self.queue(index)?.set_kick(kick)
    }
}

impl Drop for Blk {
    /// Running queues finish what is in flight; their memory and the node stay until then.
    fn drop(&mut self) {
        for queue in &self.queues {
            queue.stop(Box::new(|_| ()));
        }
    }
}
