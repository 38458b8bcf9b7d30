//! Every way to drive an AioContext, and witnesses of what its callbacks do.
#![deny(unsafe_code)] // notifier.rs says why

mod cases;
mod driven;
mod notifier;
mod running;
mod witness;

pub use driven::{Driven, Loop, context, run};
pub use gsource::Poller;
pub use notifier::{counting_notifier, reuse_number, watched_notifier};
pub use running::{Running, run_threaded};
pub use witness::{Count, Journal, Mourned, Slot, Witness, mourned};
