//! Event sources for virtual devices as custom GSources: fd handlers, bottom halves, nanosecond timers, notifiers.
#![deny(missing_docs)]

mod error;

pub use error::{Error, ErrorKind, Result};
