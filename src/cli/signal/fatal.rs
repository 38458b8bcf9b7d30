//! Signals that end the program at once: they restore the mode of the console's terminal first.
//!
//! The signal then does what it would have done: the earlier action follows, which is the default one or that of Rust's runtime. So
//! the exit status and the core file are the usual ones.
//!
//! # Invariants
//! 1. The handler makes async-signal-safe calls only.
//! 2. `EARLIER` is written before the handler is installed.
#![allow(unsafe_code)] // a signal handler

use std::ptr;
use std::sync::OnceLock;

use qcontext::kvm::serial::restore_terminal;
use qcontext::{Error, Result};

use super::action;

/// Those whose default action is the end, without those that the program handles.
const FATAL: [i32; 15] = [
    libc::SIGQUIT,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGUSR1,
    libc::SIGSEGV,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGSTKFLT,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGSYS,
];

/// Those that the kernel raises at an instruction, which is executed again when the handler returns.
const FAULTS: [i32; 4] = [libc::SIGILL, libc::SIGBUS, libc::SIGFPE, libc::SIGSEGV];

/// The actions before ours, by the number of the signal.
static EARLIER: [OnceLock<libc::sigaction>; 32] = [const { OnceLock::new() }; 32];

/// Installs the handler for all that are not ignored.
pub(super) fn restore_the_terminal_at_the_end() -> Result<()> {
    for signal in FATAL {
        if !action::is_ignored(signal)? {
            install(signal)?;
        }
    }
    Ok(())
}

fn install(signal: i32) -> Result<()> {
    let mut action = action::current(signal)?;
    if let Some(earlier) = earlier(signal) {
        earlier.get_or_init(|| action);
    }
    let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_fatal;
    action.sa_sigaction = handler as libc::sighandler_t;
    // On the alternative stack: the fault may be that the stack is full.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler has the SA_SIGINFO signature and keeps invariant 1.
    match unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(Error::last_os("cannot install a signal handler")),
    }
}

fn earlier(signal: i32) -> Option<&'static OnceLock<libc::sigaction>> {
    EARLIER.get(usize::try_from(signal).ok()?)
}

extern "C" fn on_fatal(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    restore_terminal();
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
    let is_fault = unsafe { (*info).si_code } > 0 && FAULTS.contains(&signal);
    let known = earlier(signal).and_then(OnceLock::get);
    match known {
        // The fault happens again when this returns.
        Some(earlier) if is_fault => {
            // SAFETY: the action came from sigaction itself.
            unsafe { libc::sigaction(signal, earlier, ptr::null_mut()) };
        }
        // A signal that was sent: the handler of Rust's runtime would ignore it.
        _ => {
            // SAFETY: the default action needs nothing from us.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
            // SAFETY: no memory effects; the signal is delivered when the handler has returned.
            unsafe { libc::raise(signal) };
        }
    }
}
