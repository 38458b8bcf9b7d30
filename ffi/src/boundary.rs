//! The boundary every entry point passes: panics stop here, errors become `GError`s, misuse becomes a critical.
#![allow(unsafe_code)] // reads C strings and writes through the caller's pointers

use crate::error;
use glib_sys::GError;
use qcontext::{Error, ErrorKind};
use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

/// Why a call did nothing.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The caller broke the rule that this names.
    Misuse(&'static str),
    /// The call could not be done.
    Error(Error),
    /// A mistake of this library.
    Panicked,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Error(error)
    }
}

/// Runs the body of the entry point `name`, which can only be misused.
pub(crate) fn enter<T>(
    name: &'static str,
    neutral: T,
    body: impl FnOnce() -> Result<T, Fault>,
) -> T {
    // SAFETY: NULL asks for no error.
    unsafe { enter_fallible(name, neutral, ptr::null_mut(), body) }
}

/// Runs the body of the entry point `name`; what went wrong is told in `*error`.
///
/// # Safety
/// `error` is NULL or valid for a write.
pub(crate) unsafe fn enter_fallible<T>(
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
    let told = match fault {
        Fault::Error(told) => {
            if error.is_null() {
                glib::g_debug!("qcontext", "{name}: {told}");
            }
            told
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
    // SAFETY: the caller's word.
    unsafe { error::set(error, &told) };
    neutral
}

/// Frees what C gives back; NULL is ignored.
///
/// # Safety
/// `given` is NULL, or came from `Box::into_raw` and is given back once.
pub(crate) unsafe fn free<T>(name: &'static str, given: *mut T) {
    if !given.is_null() {
        enter(name, (), || {
            // SAFETY: the caller's word.
            drop(unsafe { Box::from_raw(given) });
            Ok(())
        });
    }
}

/// The string behind a pointer that must not be NULL.
///
/// # Safety
/// `text` is NULL or a C string that outlives the result.
pub(crate) unsafe fn text<'a>(text: *const c_char, null: &'static str) -> Result<&'a str, Fault> {
    // SAFETY: the caller's word.
    unsafe { optional_text(text) }?.ok_or(Fault::Misuse(null))
}

/// The string behind a pointer that may be NULL.
///
/// # Safety
/// As for [`text`].
pub(crate) unsafe fn optional_text<'a>(text: *const c_char) -> Result<Option<&'a str>, Fault> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's word.
    let text = unsafe { CStr::from_ptr(text) };
    match text.to_str() {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(Fault::Error(Error::new(
            ErrorKind::InvalidArgument,
            "a string is not UTF-8",
        ))),
    }
}
