//! The block layer: nodes that have data, edges that say who uses a node for what, and channels through which requests
//! go.
//!
//! The life of a request:
//!
//! 1. A device finds a [`Node`] by name and [attaches](Node::attach) to it: an [`Edge`] with the [`Permissions`] that it
//!    needs and those that it lets others have.
//! 2. Each of its queues opens a [`Channel`], which belongs to the queue's AioContext. Opening walks down the graph: each
//!    node's driver opens its part of the way to the data. A driver that changes nothing hands out its child's way, so a
//!    raw image over a file is one step.
//! 3. The queue takes a [`Request`] from the channel's pool, gives it memory and submits it. What can be done at once
//!    is done at once; the rest goes to the home's io_uring or to its worker pool, a batch at a time.
//! 4. When requests have finished, the channel calls its [`ChannelOwner`], which reaps them.
//!
//! Where things are, from below:
//!
//! * `request`, `bounce`: one request and its memory; `transfer`: tasks that wait for requests
//! * `range_lock`, `write_order`: which requests wait for which: writes where direct I/O is coarser than a sector, and discards
//!   in images
//! * `image`: an open file or block device, with its locks and what direct I/O on it demands
//! * `found_file`: files that images name; `own_mount`: files that this process serves itself
//! * `gate`, `budget`: how a channel's owner is called and a channel drained; what a batch may do at once
//! * `drain`: the drain of whole nodes, under which the graph is changed
//! * `change`: nodes are opened anew and edges moved, all or nothing
//! * `way`: a queue's way to the data: files, null disks, layers whose requests are tasks, and what marks writes in bitmaps
//! * `driver`, `permission`, `graph`, `node`: what a node is made of, and who uses it for what
//! * `partial_write`: writes of parts of blocks; `watch`: zeroes in writes, and the write threshold
//! * `dirty_bitmap`, `write_record`: what was written to a node since some moment; `bitmap_change`: users make, clear and merge
//!   bitmaps
//! * `throttle`: I/O limits and the groups that share them
//! * `drivers`: `raw`, `copy-before-write`, `copy-on-read`, `qcow2`, `vdi`, `vhdx`, `vmdk`, `file`, `null-co`, `blkdebug`, `snapshot-access`, `throttle`, and how one adds another
//! * `options`, `common`, `format`: `-drive` and `-blockdev`
//! * `create`: the job that makes images
//! * `mirror`: the job whose copy follows what is written; `tap`: its look at that
//! * `backup`: the job that copies a node as it is at one moment
//! * `stream`: the job that frees an image from its backing files; `commit`: the job that moves its data into one of them; `chain`: images
//!   over each other; `job_use`: nodes that a job uses
//! * `on_error`, `error_policy`: what guests and jobs do about errors
//! * `errand`: work that is no request
//! * `channel`, `flush`: what devices use
//! * `backend`, `io_buffer`, `status`: what tasks use: exports and jobs
//!
//! # Threads
//! Nodes are shared by all threads, and only their length changes. A channel is used by the thread that drives its
//! AioContext; channels to one node share nothing but the open file, so queues on different contexts never meet. If direct I/O
//! on the file is coarser than a sector, they also share its order of writes.
#![deny(unsafe_code)] // children that need it say why

mod backend;
mod backing_name;
mod backup;
mod bitmap_change;
mod bounce;
mod budget;
mod chain;
mod change;
mod channel;
mod commit;
mod common;
mod create;
mod dirty_bitmap;
mod drain;
mod driver;
mod drivers;
mod errand;
mod error_policy;
mod flush;
mod format;
mod found_file;
mod gate;
mod graph;
mod image;
mod image_info;
mod io_buffer;
mod job_options;
mod job_use;
mod mirror;
mod node;
mod on_error;
mod options;
mod own_mount;
mod partial_write;
mod permission;
mod range_lock;
mod request;
mod resize_pass;
mod snapshot;
mod status;
mod stream;
mod tap;
#[cfg(test)]
mod test_file;
#[cfg(test)]
mod test_filter;
#[cfg(test)]
mod test_rig;
#[cfg(test)]
mod test_waker;
mod throttle;
mod transfer;
mod watch;
mod way;
mod write_order;
mod write_record;

pub use backend::BlockBackend;
#[doc(hidden)] // for the monitor
pub use backing_name::BackingRename;
#[doc(hidden)] // for the monitor
pub use bitmap_change::{BitmapAction, BitmapChange, BitmapRef};
// For the monitor.
#[doc(hidden)]
pub use backup::{BLOCKDEV_BACKUP_OPTIONS, NewBackup};
pub use change::GraphChange;
pub use channel::Channel;
// For the monitor.
#[doc(hidden)]
pub use commit::{BLOCK_COMMIT_OPTIONS, CommitStart, commit};
pub use common::DetectZeroes;
// For the monitor.
#[doc(hidden)]
pub use chain::{chain_of, next_in_chain};
#[doc(hidden)]
pub use create::{BLOCKDEV_CREATE_OPTIONS, create};
pub use dirty_bitmap::DirtyBitmap;
pub use dirty_bitmap::bits::{Dirtied, DirtyBits};
pub use dirty_bitmap::frozen::FrozenBits;
pub use dirty_bitmap::hold::HeldBitmap;
pub use drain::{DrainedNodes, Draining, drain};
pub use driver::Driver;
pub use drivers::backing::allow_image_folder;
// For the monitor's queries and its schema.
#[doc(hidden)]
pub use drivers::BLOCKDEV_OPTIONS;
pub use flush::flush;
pub use gate::{ChannelOwner, Drained};
pub use graph::{Edge, Parent};
#[doc(hidden)]
pub use graph::{EdgeInfo, NodeId, edges};
// For the monitor's queries.
#[doc(hidden)]
pub use image_info::{ImageInfo, ImageSpecific, Qcow2Info, VmdkExtentInfo, VmdkInfo};
pub use io_buffer::IoBuffer;
#[doc(hidden)]
pub use job_use::check_unused;
#[doc(hidden)]
pub use mirror::{BLOCKDEV_MIRROR_OPTIONS, COPY_MODE, DRIVE_MIRROR_OPTIONS, drive_mirror, mirror};
pub use node::Node;
pub use on_error::{ErrorAction, ErrorRules, OnError};
#[doc(hidden)] // for the options of devices
pub use on_error::{IO_STATUS, ON_ERROR};
pub use own_mount::OwnMount;
pub use permission::{Access, Permissions};
pub use request::{Finished, Op, Request, Submission};
#[doc(hidden)] // for the monitor
pub use snapshot::{NewOverlay, snapshot, snapshot_sync};
pub use status::BlockStatus;
#[doc(hidden)]
pub use stream::{BLOCK_STREAM_OPTIONS, stream};
pub use write_record::WriteRecord;

/// Makes the types of objects known that belong to the block layer: `throttle-group`, `tls-creds-x509`.
pub fn register_types() {
    throttle::register();
    crate::nbd::tls_creds::register();
}
