//! What a signal does to the program.
#![allow(unsafe_code)] // sigaction has no safe binding

use std::mem::MaybeUninit;
use std::ptr;

use qcontext::{Error, Result};

/// Whether the process ignores the signal.
pub(super) fn is_ignored(signal: i32) -> Result<bool> {
    Ok(current(signal)?.sa_sigaction == libc::SIG_IGN)
}

/// Makes the signal do nothing. A program that this one starts finds the default action again, because `exec` resets handlers; an
/// ignored signal would stay ignored there.
pub(super) fn survive(signal: i32) -> Result<()> {
    if is_ignored(signal)? {
        return Ok(());
    }
    let mut action = current(signal)?;
    let handler: extern "C" fn(libc::c_int) = nothing;
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the handler does nothing, which is async-signal-safe.
    match unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(Error::last_os("cannot install a signal handler")),
    }
}

extern "C" fn nothing(_signal: libc::c_int) {}

pub(super) fn current(signal: i32) -> Result<libc::sigaction> {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: nothing is installed; the call fills the record if it succeeds.
    match unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) } {
        // SAFETY: filled by the call that succeeded.
        0 => Ok(unsafe { action.assume_init() }),
        _ => Err(Error::last_os("cannot ask for a signal's action")),
    }
}
