//! The virtio-blk device: a block node as a guest's disk.
//!
//! [`Blk`] is the device with its queues' workers; transports know it as a [`VirtioDevice`]. Each queue
//! has an AioContext of its own, handed in when the disk is made, and a channel of its own to the node; queues share only
//! what never changes. So queues of one disk may live on different contexts without ever meeting.
//!
//! * `config`: what the guest reads about the disk
//! * `block_sizes`: what it is told about blocks
//! * `request`: what the guest asks for
//! * `queue`: a started queue: chains to requests, finished requests to answers
//! * `stats`: what a queue has done
//! * `failures`: requests that failed
//! * `pluggable`, `options`: the disk as `-device virtio-blk`
//!
//! # Threads
//! Any thread may call the methods; requests are served by the thread that drives the queue's AioContext.
//!
//! # Invariants
//! 1. The disk is written back: a finished write may be in the page cache, a finished flush is in the file. The
//!    guest is told so (`writeback` is 1) and cannot change it.
#![deny(unsafe_code)] // children that need it say why

use std::sync::Arc;

use gsource::AioContext;

use super::pluggable::FinishCallback;
use super::worker::{ConfigNotice, Model, QueueHandle, WorkerDevice};
use super::{DeviceLimits, VirtioDevice};
use crate::Result;
use crate::block::{Access, Edge, ErrorRules, Node, Parent, Permissions};
use crate::object::Value;

mod block_sizes;
mod config;
mod failures;
mod options;
mod pluggable;
mod queue;
mod request;
mod stats;

pub use block_sizes::BlockSizes;
pub use failures::BLOCK_IO_ERROR;
use failures::FailureCounts;
pub use options::BlkOptions;
pub use pluggable::MODEL;
use queue::BlkQueue;
pub use stats::QueueStats;
use stats::{PublishedStats, Totals};

/// A virtio disk.
pub type Blk = WorkerDevice<BlkModel>;

/// What all queues of a disk share, which never changes.
#[derive(Debug)]
pub struct BlkModel {
    edge: Edge,
    read_only: bool,
    error_rules: ErrorRules,
    /// The id of the `-drive` that the disk was made with, also when another node has taken its place; empty for a `-blockdev`.
    drive: Arc<str>,
    serial: [u8; request::ID_LEN],
    sizes: BlockSizes,
    /// What each queue has done, kept over stops.
    stats: Box<[Arc<PublishedStats>]>,
    failures: Arc<FailureCounts>,
}

impl Blk {
    /// The disk of device `id`. It offers `node`, with one queue for each of `contexts`. The guest reads the first 20 bytes
    /// of `serial` as the disk's id, and `sizes` in its configuration space.
    ///
    /// # Errors
    /// `InvalidArgument` if the sizes contradict each other; `Busy` if another device writes the node; those of
    /// [`WorkerDevice::with_queues`].
    pub fn new(
        id: &str,
        node: &Arc<Node>,
        contexts: Vec<AioContext>,
        serial: &str,
        sizes: BlockSizes,
    ) -> Result<Blk> {
        let mut options = BlkOptions::new(node.name());
        options.serial = Some(serial.to_owned());
        options.sizes = sizes;
        Blk::with_options(id, node, contexts, &options)
    }

    /// The disk of device `id` that `options` describe, for `node`.
    ///
    /// # Errors
    /// As for [`Blk::new`].
    pub(crate) fn with_options(
        id: &str,
        node: &Arc<Node>,
        contexts: Vec<AioContext>,
        options: &BlkOptions,
    ) -> Result<Blk> {
        let serial = options.serial.as_deref().unwrap_or(&options.drive);
        let read_only = options.read_only || node.is_read_only();
        let sizes = options.sizes.at_least(node.block_size());
        sizes.check()?;
        let of_drive = node.error_rules();
        let drive = if node.is_drive() { node.name() } else { "" };
        let model = BlkModel {
            read_only,
            error_rules: ErrorRules {
                read: options.read_errors.unwrap_or(of_drive.read),
                write: options.write_errors.unwrap_or(of_drive.write),
            },
            drive: drive.into(),
            edge: node.attach(Parent::new(options.kind, id), access(read_only, options))?,
            serial: request::pad_id(serial),
            sizes,
            stats: contexts.iter().map(|_| Arc::default()).collect(),
            failures: Arc::default(),
        };
        WorkerDevice::with_queues(model, contexts)
    }

    /// The node on offer.
    pub fn node(&self) -> Arc<Node> {
        self.model().node()
    }

    /// What a queue has done so far; zeroes for a queue that does not exist.
    pub fn stats(&self, index: u16) -> QueueStats {
        let stats = self.model().stats.get(usize::from(index));
        let stats = stats.map(|stats| stats.read()).unwrap_or_default();
        let (kicks, calls) = self.notifications(index);
        QueueStats {
            kicks,
            calls,
            ..stats
        }
    }

    /// What all queues together have done so far.
    pub fn total(&self) -> QueueStats {
        let queues = (0..self.queue_count()).map(|index| self.stats(index));
        queues.fold(QueueStats::default(), QueueStats::plus)
    }
}

impl BlkModel {
    fn node(&self) -> Arc<Node> {
        self.edge.node()
    }

    /// What all queues together have done so far, without kicks and calls.
    fn total(&self) -> QueueStats {
        let queues = self.stats.iter().map(|stats| stats.read());
        queues.fold(QueueStats::default(), QueueStats::plus)
    }
}

/// What a disk does with its node. Others may read it, copy it to another place and resize it.
fn access(read_only: bool, options: &BlkOptions) -> Access {
    let needs = match read_only {
        true => Permissions::CONSISTENT_READ,
        false => Permissions::CONSISTENT_READ.and(Permissions::WRITE),
    };
    let shares = match options.shares_writes {
        true => Permissions::ALL,
        false => Permissions::ALL.without(Permissions::WRITE),
    };
    Access { needs, shares }
}

impl Model for BlkModel {
    type Queue = BlkQueue;

    fn device_type(&self) -> u32 {
        2
    }

    fn features(&self, limits: DeviceLimits) -> u64 {
        config::features(self.read_only, limits)
    }

    fn read_config(&self, limits: DeviceLimits, offset: usize, data: &mut [u8]) {
        let space = config::space(&self.node(), limits, self.sizes);
        for (at, byte) in data.iter_mut().enumerate() {
            let at = offset.checked_add(at);
            *byte = at.and_then(|at| space.get(at)).copied().unwrap_or(0);
        }
    }

    /// Nothing is writable: `writeback` could be only with CONFIG_WCE, which is not offered.
    fn write_config(&self, _offset: usize, _data: &[u8]) {}

    /// The capacity is the node's length.
    fn set_config_notice(&self, notice: ConfigNotice) {
        self.edge.on_resize(move || notice.signal());
    }

    fn property(&self, name: &str) -> Option<Value> {
        pluggable::property(self, name)
    }

    fn finish(&self, control: &AioContext, done: FinishCallback) {
        pluggable::finish(&self.node(), control, done);
    }

    fn open_queue(&self, index: u16, aio: &AioContext, handle: QueueHandle) -> Result<BlkQueue> {
        let stats = self.stats.get(usize::from(index));
        let totals = Totals::new(stats.map(Arc::clone).unwrap_or_default());
        Ok(BlkQueue::open(self, aio, totals, handle))
    }
}
