//! Named event loops with their own threads for virtual devices, compatible with GLib.
#![deny(missing_docs)]

pub use gsource::{Error, ErrorKind, Result};

#[cfg(feature = "vhost-user")]
pub mod block;
#[cfg(feature = "vhost-user")]
pub mod vhost_user;
#[cfg(feature = "vhost-user")]
pub mod virtio;
