//! The main context, made while the default GMainContext has sources already: alone in its process, which has no main context
//! before.
#![allow(unsafe_code)] // a GSource with a prepare function of its own has no safe binding

use glib_sys::{GFALSE, GSource, GSourceFuncs, gboolean};
use qcontext::QContext;
use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use support::deadline::deadline;

static PREPARED: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn prepare(_source: *mut GSource, _timeout_ms: *mut c_int) -> gboolean {
    assert_eq!(QContext::main().id(), "qcontext-main");
    PREPARED.fetch_add(1, SeqCst);
    GFALSE
}

unsafe extern "C" fn check(_source: *mut GSource) -> gboolean {
    GFALSE
}

/// GLib keeps a pointer to them for as long as the source lives.
fn funcs() -> &'static mut GSourceFuncs {
    Box::leak(Box::new(GSourceFuncs {
        prepare: Some(prepare),
        check: Some(check),
        dispatch: None,
        finalize: None,
        closure_callback: None,
        closure_marshal: None,
    }))
}

#[test]
fn a_source_asks_for_the_main_context_while_that_is_made() {
    let _deadline = deadline("a_source_asks_for_the_main_context_while_that_is_made");
    let size = u32::try_from(size_of::<GSource>()).unwrap_or(u32::MAX);
    // SAFETY: the functions live for ever, and the size is GLib's own.
    let source = unsafe { glib_sys::g_source_new(funcs(), size) };
    // SAFETY: a fresh source, on the default GMainContext.
    unsafe { glib_sys::g_source_attach(source, ptr::null_mut()) };
    let main = QContext::main();
    glib::MainContext::default().iteration(false);
    assert!(PREPARED.load(SeqCst) > 0);
    assert_eq!(main.as_raw(), QContext::main().as_raw());
    // SAFETY: the reference of `g_source_new`.
    unsafe { glib_sys::g_source_destroy(source) };
    // SAFETY: as above.
    unsafe { glib_sys::g_source_unref(source) };
}
