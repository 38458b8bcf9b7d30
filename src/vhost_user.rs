//! The back end of the vhost-user protocol: a virtio device that another process uses over a Unix socket.
//!
//! The other process runs the virtual machine and is the *front end* (QEMU, for instance); this process is the *back end*. The
//! front end sends messages over the socket: which features the guest's driver accepted, where the guest's memory is (as
//! fds, which are mapped here), where each queue lies in that memory, and eventfds to notify each other with. Requests of the
//! guest never go over the socket: they are in the queues.
//!
//! [`Listener`] owns the socket of one device and serves one front end at a time. Everything runs in callbacks of the device's
//! control [`AioContext`](gsource::AioContext), without a thread of its own and without blocking. The queues themselves are
//! served by the device, on AioContexts of their own.
//!
//! ```text
//! listener         the socket at its path: bind, accept, accept the next front end when one has gone
//! connection       one front end: reads messages when the socket is readable, sends answers, ends in order
//! session          what that front end has said: messages in, calls to the device and answers out
//! description      what the front end has said about one queue
//! backend_channel  the second socket, for messages of ours: the configuration has changed
//! framing          bytes to messages, however the stream is split, and answers to bytes
//! protocol         the numbers and layouts of messages
//! socket           the system calls
//! ```
#![deny(unsafe_code)] // forbidden in every file but `socket`

mod backend_channel;
mod connection;
mod description;
#[cfg(test)]
mod fake;
mod framing;
mod listener;
mod protocol;
mod session;
pub(crate) mod socket;

pub use listener::Listener;
pub use session::OfferedDevice;
