//! Events for all clients, from any thread.
#![forbid(unsafe_code)]

use std::time::{SystemTime, UNIX_EPOCH};

use super::main_loop::post;
use super::{message, session};
use crate::object::Dict;

/// Sends an event to every client that has negotiated. Any thread may call it.
///
/// On the monitor's thread the event goes out before any later answer. Events and replies of one other thread arrive in
/// the order in which that thread made them.
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
