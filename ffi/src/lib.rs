//! The C ABI: `libqcontext`, on the public Rust API only.
//!
//! C programmers read `include/qcontext.h`, which is generated from the documentation of this crate.
//!
//! # Conventions
//! * A call that can fail takes a `GError **` last and returns a pointer or a `gboolean`. When it fails it has taken nothing.
//! * A callback comes with user data and a destroy notify. The notify runs exactly once, after the last call has returned,
//!   on the thread that runs the context, or on the one that ends it when no thread runs it.
//! * NULL where an object is expected, and a call from the wrong thread, are misuse: a critical and a neutral result.
//! * No panic crosses the boundary. No lock is held while a callback or a destroy notify runs.
//!
//! # What a C caller promises
//! Entry points are `unsafe`. Their documentation says which threads may call them and what else they need. For all of them:
//! 1. A pointer is NULL or valid for its type during the call; for writes if the function stores something there.
//! 2. A `QContext` or a `QContextAio` was returned by this library, and the caller holds a reference during the call.
//! 3. A string ends with a NUL and does not change during the call.
//! 4. What is given back, `(transfer full)`, was returned by this library and is given back once.
//! 5. A callback may be called with its user data on the thread that its function names.
#![deny(unsafe_code)]
#![deny(missing_docs)]
#![allow(clippy::missing_safety_doc)] // the promises above, and the C documentation of each function

mod aio;
mod aio_current;
mod aio_fd;
mod aio_run;
mod argument;
mod bh;
mod boundary;
mod callback;
mod clock;
mod context;
mod error;
mod fd;
mod handle;
mod invoke;
mod leftover;
mod main_loop;
mod notifier;
mod object;
mod options;
mod poll;
mod pool;
mod run;
mod sources;
mod timer;
mod user;
mod variant;

pub use aio::*;
pub use aio_current::*;
pub use aio_fd::*;
pub use aio_run::*;
pub use bh::*;
pub use callback::*;
pub use clock::*;
pub use context::*;
pub use error::*;
pub use fd::*;
pub use handle::*;
pub use invoke::*;
pub use main_loop::*;
pub use notifier::*;
pub use object::*;
pub use options::*;
pub use poll::*;
pub use pool::*;
pub use run::*;
pub use sources::*;
pub use timer::*;
