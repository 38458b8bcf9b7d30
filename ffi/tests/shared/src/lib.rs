//! The C half of the test, declared for the Rust half. The library that it calls is linked into the same program.
#![deny(unsafe_code)]

use qcontext_ffi as _;
use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicPtr};

/// What a callback in C saw; the C half has the same structure.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Seen {
    /// How often it was called.
    pub calls: AtomicI32,
    /// How often its destroy notify ran.
    pub destroyed: AtomicI32,
    /// The kernel's id of the thread.
    pub thread: AtomicI64,
    /// What `qcontext_get_current` said.
    pub context: AtomicPtr<c_void>,
    /// What `g_main_context_get_thread_default` said.
    pub thread_default: AtomicPtr<c_void>,
}

#[allow(unsafe_code)] // functions in C
unsafe extern "C" {
    /// Looks around where it is called.
    pub fn half_see(seen: *const Seen);
    /// Attaches a source made in C that runs `times` times.
    pub fn half_attach_source(
        context: *mut c_void,
        name: *const c_char,
        times: c_int,
        seen: *const Seen,
    ) -> c_int;
    /// Schedules a bottom half made in C.
    pub fn half_schedule_bh(context: *mut c_void, seen: *const Seen) -> c_int;
    /// Begins an operation of GIO's.
    pub fn half_load_file(seen: *const Seen);
}
