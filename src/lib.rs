//! Named event loops with their own threads for virtual devices, compatible with GLib.
//!
//! A [`QContext`] wraps one `GMainContext`, is found by name, and drives any number of AioContexts, fd handlers and GSources.
#![deny(unsafe_code)] // modules that need it say why
#![deny(missing_docs)]

#[cfg(feature = "vhost-user")]
pub mod block;
pub mod context;
#[cfg(feature = "vhost-user")]
pub mod device;
pub mod json;
#[cfg(feature = "kvm")]
pub mod kvm;
#[cfg(feature = "monitor")]
pub mod monitor;
pub mod object;
mod value;
#[cfg(feature = "vhost-user")]
pub mod vhost_user;
#[cfg(feature = "vhost-user")]
pub mod virtio;

pub use context::{QContext, QContextBuilder};
pub use gsource::{
    AioContext, AsyncFile, Bh, Clock, Error, ErrorKind, EventNotifier, FdHandler, IoHandlers, Job,
    JoinHandle, PollParams, Poller, PoolLimits, Result, Timer, Wait, start_virtual_clock,
    stop_virtual_clock,
};
