//! What the NBD client and the NBD server have in common: the protocol and the stream.
//!
//! The block driver `nbd` is the client; the server is an export.
//!
//! # Threads
//! See the parts.
#![deny(unsafe_code)] // a child that needs it says why

pub mod protocol;
mod send;
pub(crate) mod stream;
