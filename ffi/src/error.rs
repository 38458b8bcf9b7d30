//! Errors as `GError`s of one domain.
#![allow(unsafe_code)] // GError is a C structure
#![allow(non_camel_case_types)] // the constants are C's

use glib_sys::{GError, GQuark};
use qcontext::{Error, ErrorKind};
use std::ffi::{CString, c_int};

/// QContextError:
/// The codes of errors of the domain QCONTEXT_ERROR. Codes are never reused.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QContextError {
    /// A value is not what the option or the call expects.
    QCONTEXT_ERROR_INVALID_ARGUMENT = 100,
    /// A mandatory option is absent.
    QCONTEXT_ERROR_MISSING_ARGUMENT = 101,
    /// A name is not a well-formed identifier.
    QCONTEXT_ERROR_INVALID_ID = 102,
    /// Only another thread may do this.
    QCONTEXT_ERROR_WRONG_THREAD = 103,
    /// The wait could never end.
    QCONTEXT_ERROR_WOULD_DEADLOCK = 104,
    /// The named thing does not exist.
    QCONTEXT_ERROR_NOT_FOUND = 200,
    /// The name or the fd is taken.
    QCONTEXT_ERROR_EXISTS = 201,
    /// The thing is in use and refuses the change.
    QCONTEXT_ERROR_BUSY = 202,
    /// The context has been stopped.
    QCONTEXT_ERROR_CLOSED = 203,
    /// A bound that protects the process was reached.
    QCONTEXT_ERROR_LIMIT_EXCEEDED = 204,
    /// There is no such command.
    QCONTEXT_ERROR_COMMAND_NOT_FOUND = 205,
    /// There is no such device or object path.
    QCONTEXT_ERROR_DEVICE_NOT_FOUND = 206,
    /// The operation was cancelled before it was done.
    QCONTEXT_ERROR_CANCELLED = 207,
    /// A system call failed; the message ends with the reason.
    QCONTEXT_ERROR_OS = 300,
    /// This build, kernel or configuration cannot do it.
    QCONTEXT_ERROR_UNSUPPORTED = 301,
    /// The peer broke the protocol.
    QCONTEXT_ERROR_PROTOCOL = 302,
    /// A bug of the library; the call was abandoned.
    QCONTEXT_ERROR_PANICKED = 303,
}

use QContextError as Code;

fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::MissingArgument => Code::QCONTEXT_ERROR_MISSING_ARGUMENT,
        ErrorKind::InvalidId => Code::QCONTEXT_ERROR_INVALID_ID,
        ErrorKind::WrongThread => Code::QCONTEXT_ERROR_WRONG_THREAD,
        ErrorKind::WouldDeadlock => Code::QCONTEXT_ERROR_WOULD_DEADLOCK,
        ErrorKind::NotFound => Code::QCONTEXT_ERROR_NOT_FOUND,
        ErrorKind::AlreadyExists => Code::QCONTEXT_ERROR_EXISTS,
        ErrorKind::Busy => Code::QCONTEXT_ERROR_BUSY,
        ErrorKind::Closed => Code::QCONTEXT_ERROR_CLOSED,
        ErrorKind::LimitExceeded => Code::QCONTEXT_ERROR_LIMIT_EXCEEDED,
        ErrorKind::CommandNotFound => Code::QCONTEXT_ERROR_COMMAND_NOT_FOUND,
        ErrorKind::DeviceNotFound => Code::QCONTEXT_ERROR_DEVICE_NOT_FOUND,
        ErrorKind::Os => Code::QCONTEXT_ERROR_OS,
        ErrorKind::Unsupported => Code::QCONTEXT_ERROR_UNSUPPORTED,
        ErrorKind::Protocol => Code::QCONTEXT_ERROR_PROTOCOL,
        ErrorKind::Cancelled => Code::QCONTEXT_ERROR_CANCELLED,
        ErrorKind::Panicked => Code::QCONTEXT_ERROR_PANICKED,
        _ => Code::QCONTEXT_ERROR_INVALID_ARGUMENT,
    }
}

/// Stores `error` in `*place`.
///
/// # Safety
/// `place` is NULL or valid for a write.
pub(crate) unsafe fn set(place: *mut *mut GError, error: &Error) {
    if place.is_null() {
        return;
    }
    let message = CString::new(error.to_string()).unwrap_or_default();
    let code = code(error.kind()) as c_int;
    // SAFETY: the message is a C string and is copied.
    let stored =
        unsafe { glib_sys::g_error_new_literal(qcontext_error_quark(), code, message.as_ptr()) };
    // SAFETY: as the caller of this function promises.
    unsafe { *place = stored };
}

/// qcontext_error_quark:
/// Returns: the domain of this library's errors; write it QCONTEXT_ERROR.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub extern "C" fn qcontext_error_quark() -> GQuark {
    // SAFETY: a C string that lives for ever.
    unsafe { glib_sys::g_quark_from_static_string(c"qcontext-error-quark".as_ptr()) }
}

/// qcontext_version:
/// Returns: the version of the library that is loaded, encoded as by QCONTEXT_VERSION_ENCODE().
///
/// Any thread, any locks held, also from a signal handler.
#[unsafe(no_mangle)]
pub extern "C" fn qcontext_version() -> u32 {
    const fn number(text: &str) -> u32 {
        let (bytes, mut index, mut value) = (text.as_bytes(), 0, 0);
        while index < bytes.len() {
            value = value * 10 + (bytes[index] - b'0') as u32;
            index += 1;
        }
        value
    }
    const MAJOR: u32 = number(env!("CARGO_PKG_VERSION_MAJOR"));
    const MINOR: u32 = number(env!("CARGO_PKG_VERSION_MINOR"));
    const PATCH: u32 = number(env!("CARGO_PKG_VERSION_PATCH"));
    MAJOR * 1_000_000 + MINOR * 1_000 + PATCH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_code_of_its_own() {
        use ErrorKind::*;
        let kinds = [
            InvalidArgument,
            MissingArgument,
            InvalidId,
            NotFound,
            AlreadyExists,
            Busy,
            WrongThread,
            WouldDeadlock,
            Closed,
            Unsupported,
            Protocol,
            LimitExceeded,
            CommandNotFound,
            DeviceNotFound,
            Os,
            Cancelled,
            Panicked,
        ];
        let mut codes: Vec<i32> = kinds.iter().map(|&kind| code(kind) as i32).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), kinds.len());
    }
}
