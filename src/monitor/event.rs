//! Events, and getting from any thread to the monitor's.
#![forbid(unsafe_code)]

use std::time::{SystemTime, UNIX_EPOCH};

use super::{message, session};
use crate::object::Dict;

/// Sends an event to every client that has negotiated. Any thread may call it.
///
/// On the monitor's thread the event goes out before anything that is answered later; from one other thread, events
/// and replies arrive in the order they were made.
pub fn emit(name: &str, data: Dict) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let text = message::event(name, data, now.unwrap_or_default());
    if session::any_here() {
        broadcast(&text);
    } else {
        post(move || broadcast(&text));
    }
}

fn broadcast(text: &str) {
    session::all()
        .iter()
        .for_each(|session| session.notify(text));
}

/// Runs `action` on the thread that iterates the default `GMainContext`.
pub(super) fn post(action: impl FnOnce() + Send + 'static) {
    let mut action = Some(action);
    let source = glib::idle_source_new(
        Some("qcontext-monitor-post"),
        glib::Priority::DEFAULT,
        move || {
            if let Some(action) = action.take() {
                action();
            }
            glib::ControlFlow::Break
        },
    );
    source.attach(Some(&glib::MainContext::default()));
}
