//! External snapshots: an overlay takes the place of a node, which stays as it is behind it.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::change::GraphChange;
use super::driver::Driver;
use super::graph::edges;
use super::job_use::check_unused;
use super::node::Node;
use crate::object::Options;
use crate::{Error, ErrorKind, Result};

mod overlay;

pub use overlay::NewOverlay;
use overlay::OverlayRecipe;

/// Adds to `change` that all who use the node `node` use `overlay` instead, which gets `node` as its backing file.
///
/// # Errors
/// There is no such node; the overlay has a backing file already, or cannot have one; a job uses the node, or it is a backing file.
pub fn snapshot(change: &mut GraphChange, node: &str, overlay: &str) -> Result<()> {
    let node = Node::find(node)?;
    check_disk(change, &node)?;
    append(change, &node, &Node::find(overlay)?)
}

/// The same with an overlay that is made or opened for it, as the arguments of `blockdev-snapshot-sync` say. It blocks the thread.
///
/// # Errors
/// As for [`snapshot`]; the image cannot be made or opened.
pub fn snapshot_sync(change: &mut GraphChange, mut arguments: Options) -> Result<NewOverlay> {
    let device = arguments.take_str("device")?.unwrap_or_default();
    let name = arguments.take_str("node-name")?.unwrap_or_default();
    let drive = Node::find(&device).ok().filter(|node| node.is_drive());
    let node = drive.or_else(|| Node::find(&name).ok().filter(|node| !node.is_drive()));
    let node = node.ok_or_else(|| {
        let message = format!("Cannot find device='{device}' nor node-name='{name}'");
        Error::new(ErrorKind::NotFound, message)
    })?;
    check_disk(change, &node)?;
    let overlay = OverlayRecipe::take(&mut arguments, !name.is_empty())?.open(&node)?;
    append(change, &node, overlay.node())?;
    Ok(overlay)
}

fn check_disk(change: &GraphChange, node: &Arc<Node>) -> Result<()> {
    check_unused(node)?;
    check_top(node)?;
    match change.successor(node) {
        Some(overlay) => Err(busy_backing(node, overlay.name())),
        None => Ok(()),
    }
}

fn append(change: &mut GraphChange, node: &Arc<Node>, overlay: &Arc<Node>) -> Result<()> {
    if overlay.driver() != Driver::Qcow2 {
        let message = "The overlay does not support backing images";
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    if overlay.child_of("backing").is_some() {
        let message = "The overlay already has a backing image";
        return Err(Error::new(ErrorKind::Busy, message));
    }
    change.set_child(overlay, "backing", Some(node))?;
    change.replace(node, overlay)
}

/// Checks that the node is not behind another image.
fn check_top(node: &Arc<Node>) -> Result<()> {
    let mut uses = edges().into_iter().filter(|edge| edge.child == node.id());
    let Some(user) = uses.find(|edge| edge.parent.role() == "backing") else {
        return Ok(());
    };
    Err(busy_backing(node, user.parent.name()))
}

fn busy_backing(node: &Node, overlay: &str) -> Error {
    let message = format!(
        "Node '{}' is busy: node is used as backing hd of '{overlay}'",
        node.name()
    );
    Error::new(ErrorKind::Busy, message)
}
