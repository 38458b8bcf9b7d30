//! Events for all clients, from any thread.
#![forbid(unsafe_code)]

use std::time::{SystemTime, UNIX_EPOCH};

use super::main_loop::post;
use super::{message, session};
use crate::object::{Dict, Options, Value};
use crate::schema::{self, EventType};

/// Sends an event to every client that has negotiated. Any thread may call it.
///
/// On the monitor's thread the event goes out before any later answer. Events and replies of one other thread arrive in
/// the order in which that thread made them.
pub fn emit(event: &'static EventType, data: Dict) {
    debug_assert!(
        schema::check(event.data, Options::from_dict(data.clone())).is_ok(),
        "the data of {} are not as described",
        event.name
    );
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let text = message::event(event.name, data, now.unwrap_or_default());
    if session::any_here() {
        broadcast(event, &text);
    } else {
        post(move || broadcast(event, &text));
    }
}

fn broadcast(event: &EventType, text: &Value) {
    session::all()
        .iter()
        .for_each(|session| session.notify(event, text));
}
