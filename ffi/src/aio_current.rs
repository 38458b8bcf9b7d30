//! The calling thread's current AioContext.
//!
//! atexit(3) handlers run after the destructors of Rust's and C++'s thread-local storage, and ask for it as well. So it is in a
//! `GPrivate`: that is cleared when a thread ends, but not when exit(3) ends the program.
#![allow(unsafe_code)] // entry points, and a GPrivate with a counted pointer

use crate::argument::entry;
use crate::handle::{QContextAio, give_aio};
use glib_sys::{GPrivate, gpointer};
use qcontext::AioContext;
use qcontext::QContext as Context;
use std::cell::UnsafeCell;
use std::mem::ManuallyDrop;
use std::ptr;

/// A `GPrivate` whose values are references to AioContexts, given away with `into_raw`.
struct ThreadAio(UnsafeCell<GPrivate>);

// SAFETY: GLib locks what threads share of a GPrivate.
unsafe impl Sync for ThreadAio {}

/// The AioContext of qcontext_aio_set_current().
static CURRENT: ThreadAio = ThreadAio(UnsafeCell::new(GPrivate {
    p: ptr::null_mut(),
    notify: Some(release),
    future: [ptr::null_mut(); 2],
}));

/// Gives the reference of a thread back.
unsafe extern "C" fn release(aio: gpointer) {
    // SAFETY: `ThreadAio::replace` has stored it, and GLib releases each value once.
    drop(unsafe { AioContext::from_raw(aio) });
}

impl ThreadAio {
    fn replace(&self, aio: Option<AioContext>) {
        let value = aio.map_or(ptr::null(), AioContext::into_raw);
        // SAFETY: a static GPrivate, set up as GLib's G_PRIVATE_INIT does.
        unsafe { glib_sys::g_private_replace(self.0.get(), value.cast_mut()) };
    }

    fn get(&self) -> Option<AioContext> {
        // SAFETY: as above.
        let value = unsafe { glib_sys::g_private_get(self.0.get()) };
        if value.is_null() {
            return None;
        }
        // SAFETY: the thread's reference, which is not given back here.
        let held = ManuallyDrop::new(unsafe { AioContext::from_raw(value) });
        Some(AioContext::clone(&held))
    }
}

/// qcontext_aio_set_current:
/// Sets the calling thread's current AioContext, which qcontext_aio_get_current() returns.
/// @aio: (nullable): an AioContext, which the thread references; NULL for none
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_aio_set_current(aio: *mut QContextAio) {
    entry!(qcontext_aio_set_current, (), |aio: Option<AioContext>| {
        CURRENT.replace(aio);
        Ok(())
    });
}

/// qcontext_aio_get_current:
/// Returns: (transfer full) (nullable): a new reference to the calling thread's current AioContext: the one of
/// qcontext_aio_set_current(), else that of the context that runs the thread, else NULL.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub extern "C" fn qcontext_aio_get_current() -> *mut QContextAio {
    entry!(qcontext_aio_get_current, ptr::null_mut(), || {
        let of_context = || Context::current().and_then(|context| context.aio().ok());
        let current = CURRENT.get().or_else(of_context);
        Ok(current.map_or(ptr::null_mut(), give_aio))
    })
}
