//! What the NBD client and the NBD server have in common: the protocol.
//!
//! The block driver `nbd` is the client; the server is an export.
//!
//! # Threads
//! Values only, for every thread.
#![forbid(unsafe_code)]

pub mod protocol;
