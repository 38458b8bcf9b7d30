//! Named event loops with their own threads for virtual devices, compatible with GLib.
#![deny(missing_docs)]

pub mod context;
pub mod json;
#[cfg(feature = "monitor")]
pub mod monitor;
pub mod object;

pub use context::QContext;
pub use gsource::{Error, ErrorKind, Result};
