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
//! Where things are:
//!
//! * `options`, `format`: `-drive` and `-blockdev`
//! * `node`, `graph`, `permission`: what there is, and who uses it
//! * `driver`: what a node is made of (`raw`, `file`, `null-co`), and how one adds a driver
//! * `channel`, `request`: the queue's side of a way, with drain
//! * `flush`: one flush of a node by itself
//!
//! # Threads
//! Nodes are shared by all threads, and only their length changes. A channel is used by the thread that drives its
//! AioContext; channels to one node share nothing but the open file, so queues on different contexts never meet.
#![deny(unsafe_code)] // children that need it say why

mod channel;
mod driver;
mod flush;
mod format;
mod graph;
mod node;
mod options;
mod permission;
mod request;
#[cfg(test)]
mod test_file;

pub use channel::{Channel, ChannelOwner, Drained, Finished, Submission};
pub use driver::Driver;
pub use flush::flush;
pub use graph::{Edge, Parent};
pub use node::Node;
pub use permission::{Access, Permissions};
pub use request::{Op, Request};
