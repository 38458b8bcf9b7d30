//! The boundary of every entry point: it stops panics, turns errors into `GError`s and reports misuse as a critical.
#![allow(unsafe_code)] // writes through the caller's GError pointer

use crate::error;
use glib_sys::GError;
use qcontext::{Error, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Why a call did nothing.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The caller broke the rule that this names.
    Misuse(&'static str),
    /// The call failed.
    Error(Error),
    /// A bug of this library.
    Panicked,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Error(error)
    }
}

/// Runs the body of the entry point `name`. A fault is stored in `*error`, and `neutral` is returned.
///
/// # Safety
/// `error` is NULL or valid for a write.
pub(crate) unsafe fn enter<T>(
    name: &'static str,
    neutral: T,
    error: *mut *mut GError,
    body: impl FnOnce() -> Result<T, Fault>,
) -> T {
    let fault = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => return value,
        Ok(Err(fault)) => fault,
        Err(_) => Fault::Panicked,
    };
    let reported = match fault {
        Fault::Error(reported) => {
            if error.is_null() {
                glib::g_debug!("qcontext", "{name}: {reported}");
            }
            reported
        }
        Fault::Misuse(rule) => {
            glib::g_critical!("qcontext", "{name}: {rule}");
            Error::new(ErrorKind::InvalidArgument, rule)
        }
        Fault::Panicked => {
            glib::g_critical!("qcontext", "{name}: the call panicked");
            Error::new(ErrorKind::Panicked, "the call panicked")
        }
    };
    // SAFETY: as the caller of this function promises.
    unsafe { error::set(error, &reported) };
    neutral
}
