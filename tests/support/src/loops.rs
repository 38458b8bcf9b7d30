//! Every way to drive an AioContext, and witnesses of what its callbacks do.
#![deny(unsafe_code)] // fds.rs says why

mod cases;
mod driven;
mod fds;
mod future;
mod running;
mod witness;

pub use driven::{Driven, Loop, context, run};
pub use fds::{counting_notifier, probed_handler, reuse_number, stream_pair, watched_notifier};
pub use future::{Never, Yield, finish, never};
pub use gsource::Poller;
pub use running::{Running, run_threaded};
pub use witness::{Count, DropProbe, Drops, Journal, Slot, drop_probe};
