//! The back end of the vhost-user protocol: a virtio device offered to another process over a Unix socket.
//!
//! [`Listener`] owns the socket of one device and serves one front end at a time. Everything runs in callbacks of the device's
//! control [`AioContext`](gsource::AioContext), without a thread and without blocking; the data path is the device's own and shares
//! nothing with it but the thread.
//!
//! ```text
//! listener    the socket's path: bind, accept, the next front end when the first has gone
//! connection  one front end: the socket's readiness turned into messages, answers, an orderly end
//! session     the state machine: messages in, calls to the device and answers out
//! ring        what one queue still needs before it can start
//! framing     bytes to messages and back, however they are split
//! socket      the two system calls
//! protocol    numbers and layouts
//! ```
#![deny(unsafe_code)] // forbidden in every file but `socket`

mod connection;
#[cfg(test)]
mod fake;
mod framing;
mod listener;
mod protocol;
mod ring;
mod session;
mod socket;

pub use listener::Listener;
pub use session::Served;
