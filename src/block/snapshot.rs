//! External snapshots: an overlay takes the place of a node, which stays as it is behind it.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::change::GraphChange;
use super::driver::Driver;
use super::graph::edges;
use super::node::Node;
use super::stream::check_unused;
use crate::{Error, ErrorKind, Result};

/// Adds to `change` that all who use the node `node` use `overlay` instead, which gets `node` as its backing file.
///
/// # Errors
/// There is no such node; the overlay has a backing file already, or cannot have one; a job uses the node, or it is a backing file.
pub fn snapshot(change: &mut GraphChange, node: &str, overlay: &str) -> Result<()> {
    let node = Node::find(node)?;
    check_unused(&node)?;
    check_top(&node)?;
    let overlay = Node::find(overlay)?;
    if overlay.driver() != Driver::Qcow2 {
        let message = "The overlay does not support backing images";
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    if overlay.child_of("backing").is_some() {
        let message = "The overlay already has a backing image";
        return Err(Error::new(ErrorKind::Busy, message));
    }
    change.set_child(&overlay, "backing", Some(&node))?;
    change.replace(&node, &overlay)
}

/// Checks that the node is not behind another image.
fn check_top(node: &Arc<Node>) -> Result<()> {
    let mut uses = edges().into_iter().filter(|edge| edge.child == node.id());
    let Some(user) = uses.find(|edge| edge.parent.role() == "backing") else {
        return Ok(());
    };
    let message = format!(
        "Node '{}' is busy: node is used as backing hd of '{}'",
        node.name(),
        user.parent.name()
    );
    Err(Error::new(ErrorKind::Busy, message))
}
