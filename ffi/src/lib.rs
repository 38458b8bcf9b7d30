//! The C ABI: `libqcontext`, over the public Rust API only.
//!
//! What a C programmer reads is `include/qcontext.h`, generated from the documentation of this crate.
//!
//! # Conventions
//! * A fallible call ends in `GError **` and returns a pointer or `gboolean`. Where that fails nothing was taken.
//! * A callback comes with user data and a destroy notify, which runs exactly once after the last call has returned, on the
//!   thread that runs the context (or on the one that tears it down).
//! * `NULL` where an object is expected, and a call from a thread where it cannot work, is a critical and a neutral value.
//! * No panic crosses; no lock is held while a callback or a destroy notify runs.
#![deny(unsafe_code)]
#![deny(missing_docs)]
#![allow(clippy::missing_safety_doc)] // the rules stand in the C documentation of each function

mod aio;
mod aio_fd;
mod aio_run;
mod bh;
mod boundary;
mod callback;
mod context;
mod error;
mod fd;
mod handle;
mod invoke;
mod main_loop;
mod notifier;
mod object;
mod options;
mod pool;
mod run;
mod sources;
mod timer;
mod user;
mod variant;

pub use aio::*;
pub use aio_fd::*;
pub use aio_run::*;
pub use bh::*;
pub use callback::*;
pub use context::*;
pub use error::*;
pub use fd::*;
pub use handle::*;
pub use invoke::*;
pub use main_loop::*;
pub use notifier::*;
pub use object::*;
pub use options::*;
pub use pool::*;
pub use run::*;
pub use sources::*;
pub use timer::*;
