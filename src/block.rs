//! The block layer: named nodes, and channels through which devices read and write them.
//!
//! * [`Node`]: a disk image or a null disk, found by its name; opened from `-drive` and `-blockdev` options.
//! * [`Channel`]: one queue's way to a node. It belongs to one AioContext and shares nothing with other channels but
//!   the open file, so queues on different contexts never meet.
//! * [`Request`]: what to do, with the memory to do it on. Requests are pooled: no allocation in the steady state.
//!
//! # Threads
//! Nodes are immutable and shared. A channel is used by the thread that drives its AioContext.
#![deny(unsafe_code)] // children that need it say why

mod engine;
mod file;
mod flush;
mod format;
mod node;
mod null;
mod options;
mod request;

pub use engine::{Channel, ChannelOwner, Finished, Submission};
pub use flush::flush;
pub use node::{Claim, Driver, Node};
pub use request::{Op, Request};
