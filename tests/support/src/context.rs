//! Named contexts, and what to attach to them.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ThreadId;

use qcontext::QContext;

/// The thread that runs the context.
pub fn home_of(context: &QContext) -> ThreadId {
    context.invoke_sync(|| std::thread::current().id()).unwrap()
}

/// A GLib source that is always ready, counts its dispatches, and ends with the last one.
pub fn idle_source(hits: &Arc<AtomicUsize>, last: usize) -> glib::Source {
    let hits = Arc::clone(hits);
    glib::idle_source_new(None, glib::Priority::DEFAULT, move || {
        if hits.fetch_add(1, Ordering::SeqCst) + 1 == last {
            glib::ControlFlow::Break
        } else {
            glib::ControlFlow::Continue
        }
    })
}
