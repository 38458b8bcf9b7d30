//! Commands that change nodes when these are quiet.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::Result;
use crate::block::{DrainedNodes, Node, drain};
use crate::monitor::reply::Reply;

/// Drains the nodes, does `act` on a thread of its own, which may wait for storage, and answers the command. Requests to the nodes wait
/// until it is over.
pub(super) fn run_drained(
    command: &'static str,
    nodes: &[Arc<Node>],
    reply: Reply,
    act: impl FnOnce(&DrainedNodes) -> Result<()> + Send + 'static,
) {
    let draining = drain(nodes);
    glib::MainContext::default().spawn_local(async move {
        let drained = draining.await;
        reply.done_by_thread(command, move || act(&drained));
    });
}
