//! The foreground of a terminal, which belongs to one process group at a time: a shell chooses it (`fg`, `bg`, Ctrl-Z).
//!
//! Used by what reads from a terminal. In the background nothing is read, because the kernel would stop the process. Nothing tells a
//! process that it is in the foreground again, except SIGCONT if it was stopped.
#![allow(unsafe_code)] // tcgetpgrp and signal masks

use std::mem;
use std::os::fd::RawFd;
use std::ptr;

/// Whether the process is in the foreground of a terminal. A terminal that does not control this process's session has no such groups,
/// and is always ours; so is what is no terminal.
pub(crate) fn is_foreground(fd: RawFd) -> bool {
    // SAFETY: no pointers involved.
    let foreground = unsafe { libc::tcgetpgrp(fd) };
    // SAFETY: no preconditions.
    foreground < 0 || foreground == unsafe { libc::getpgrp() }
}

/// Reads from a terminal. In the background that fails with EIO instead of stopping the process.
pub(crate) fn read_unstopped<T>(read: impl FnOnce() -> T) -> T {
    with_blocked(libc::SIGTTIN, read)
}

/// Runs `action` with a signal of job control blocked in this thread.
pub(crate) fn with_blocked<T>(signal: i32, action: impl FnOnce() -> T) -> T {
    // SAFETY: all zeroes is a valid place for a set, which is initialised next.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    let mut before = set;
    // SAFETY: the set is ours.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: as above.
    unsafe { libc::sigaddset(&raw mut set, signal) };
    // SAFETY: both sets are ours, and the first one is initialised.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before) };
    let outcome = action();
    // SAFETY: the set was filled by the call above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut()) };
    outcome
}
