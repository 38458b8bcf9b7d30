//! poll(2) for programs with a loop of their own, with a timeout as exact as those of timers.
#![allow(unsafe_code)] // ppoll(2)

use glib_sys::GPollFD;
use std::ffi::c_int;
use std::ptr;

/// qcontext_poll_ns:
/// As g_poll(), with a timeout in nanoseconds.
/// @fds: (nullable): what to wait for
/// @count: how many
/// @timeout_ns: how long to wait at most; negative for ever
///
/// Returns: how many fds have events; 0 after the timeout; -1 with errno on failure, also when a signal came.
///
/// Any thread; blocks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_poll_ns(fds: *mut GPollFD, count: u32, timeout_ns: i64) -> c_int {
    let limit = libc::timespec {
        tv_sec: timeout_ns / 1_000_000_000,
        tv_nsec: timeout_ns % 1_000_000_000,
    };
    let limit = if timeout_ns < 0 {
        ptr::null()
    } else {
        &raw const limit
    };
    let count = libc::nfds_t::from(count);
    // SAFETY: promise 1; a GPollFD is a struct pollfd on Unix.
    unsafe { libc::ppoll(fds.cast(), count, limit, ptr::null()) }
}
