//! Named event loops with their own threads for virtual devices, compatible with GLib.
//!
//! A [`QContext`] is a named event loop, usually with a thread of its own. It wraps one `GMainContext` and drives AioContexts
//! (fd handlers, bottom halves, timers, tasks), iohandlers, and every `GSource` of GLib, GIO or a C library. Virtual devices are
//! assigned to contexts by name.
//!
//! # Example
//! ```
//! use qcontext::{FdHandler, QContext};
//! use std::io::Write;
//! use std::os::{fd::AsRawFd, unix::net::UnixStream};
//! use std::sync::mpsc;
//!
//! let ctx = QContext::builder("ctx1").threaded(true).build()?;
//!
//! // A function that runs on the context's thread. The call waits for its result.
//! assert_eq!(ctx.invoke_sync(|| 6 * 7)?, 42);
//!
//! // An fd handler. Its callback runs on the context's thread.
//! let (mut client, server) = UnixStream::pair()?;
//! let (sender, receiver) = mpsc::channel();
//! let handler = FdHandler::new().on_read(move || sender.send("readable").unwrap_or_default());
//! ctx.add_fd_handler(server.as_raw_fd(), handler)?;
//! client.write_all(b"hello")?;
//! assert_eq!(receiver.recv()?, "readable");
//!
//! // After this returns the fd is not polled any more.
//! ctx.remove_fd_handler(server.as_raw_fd());
//! ctx.stop()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//! The repository's `examples/` has more, and `docs/architecture.md` explains how the parts work together.
//!
//! # Map
//!
//! | part | content |
//! |---|---|
//! | [`QContext`] | the event loop: creation, names, functions, fd handlers, sources |
//! | [`AioContext`] | a device's set of handlers, which moves between contexts as one |
//! | [`object`] | the object tree, option strings |
//! | [`schema`] | the types of QMP commands, events and options |
//! | `block` | block nodes and the channels to them |
//! | `virtio` | virtqueues, the workers that serve them, the traits of a device model, the disk |
//! | `device` | what `-device` creates: a model, a transport and their contexts |
//! | `vhost_user`, `kvm` | the transports: a socket to another process, a machine in this one |
//! | `monitor` | the QMP server |
//!
//! # Signals
//! The library changes what two signals do: with guest memory of vhost-user it handles SIGBUS, which a front end raises that
//! truncates its memory; with `kvm` it uses the first real-time signal. Both need not to be blocked. It leaves all others to the
//! program. Two of these end a program by default although only a request has failed, so a program with disks should handle or
//! ignore them: SIGXFSZ (a guest writes beyond `RLIMIT_FSIZE`) and, with a console or monitor on a pipe, SIGPIPE, which a Rust
//! program ignores by default. Writes to sockets do not raise SIGPIPE. `qctx` does all this, and more for job control.
//!
//! # Features
//! All are on by default. Without them the crate is the loop and the object tree.
//!
//! * `monitor`: the QMP server
//! * `vhost-user`: the block layer, virtio devices, and the vhost-user transport
//! * `kvm`: a machine on `/dev/kvm` (x86-64); includes `vhost-user`
#![deny(unsafe_code)] // modules that need it say why
#![deny(missing_docs)]

#[cfg(feature = "vhost-user")]
pub mod block;
mod context;
#[cfg(feature = "vhost-user")]
pub mod device;
#[cfg(feature = "vhost-user")]
#[doc(hidden)] // for qctx and the monitor
pub mod export;
#[cfg(any(feature = "monitor", feature = "kvm"))]
mod foreground;
#[cfg(feature = "vhost-user")]
mod inherited_socket;
#[cfg(feature = "vhost-user")]
#[doc(hidden)] // for qctx and the monitor
pub mod job;
#[doc(hidden)] // for the subcommands of qctx and for the fuzz tests
pub mod json;
#[cfg(feature = "kvm")]
pub mod kvm;
#[cfg(feature = "monitor")]
pub mod monitor;
#[cfg(feature = "vhost-user")]
#[doc(hidden)] // for tests that are a peer
pub mod nbd;
pub mod object;
#[cfg(feature = "vhost-user")]
mod rate_limit;
pub mod schema;
#[cfg(feature = "vhost-user")]
mod socket_address;
#[cfg(any(feature = "monitor", feature = "vhost-user"))]
mod unix_socket;
mod value;
#[cfg(feature = "vhost-user")]
pub mod vhost_user;
#[cfg(feature = "vhost-user")]
pub mod virtio;

pub use context::{ContextClaim, QContext, QContextBuilder, SchedPolicy, step_virtual_clock};
#[doc(hidden)] // for the C ABI
pub use gsource::Tie;
pub use gsource::{
    AioContext, AsyncFile, Bh, Clock, Error, ErrorKind, EventNotifier, FdHandler, IoHandlers, Job,
    JoinHandle, PollParams, Poller, PoolLimits, Resource, Result, Timer, Wait, deadline_ns,
    set_virtual_clock, start_virtual_clock, stop_virtual_clock,
};
