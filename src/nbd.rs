//! What the NBD client and the NBD server have in common: the protocol and the stream.
//!
//! The block driver `nbd` is the client; the server is an export.
//!
//! # Threads
//! See the parts.
#![forbid(unsafe_code)]

pub mod protocol;
pub(crate) mod stream;
