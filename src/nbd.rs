//! What the NBD client and the NBD server have in common: the protocol, the stream, and certificates.
//!
//! The block driver `nbd` is the client; the server is an export.
//!
//! # Threads
//! See the parts.
#![deny(unsafe_code)] // a child that needs it says why

pub mod protocol;
mod send;
pub(crate) mod stream;
pub(crate) mod tls_creds;
