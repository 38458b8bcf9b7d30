//! The nodes by name.
//!
//! # Threads
//! One lock, under which no node is dropped: the end of a node takes the lock.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::Node;
use crate::{Error, Result};

static NAMES: Mutex<Vec<NamedNode>> = Mutex::new(Vec::new());

/// A node, in the order of their making.
struct NamedNode {
    /// The node's number.
    id: u64,
    name: String,
    node: Weak<Node>,
    /// Keeps a node that was made by itself, until it is removed.
    owned: Option<Arc<Node>>,
}

/// Lets `node` be found by its name, and keeps it if it `is_owned`.
pub(super) fn enter(node: &Arc<Node>, is_owned: bool, duplicate: fn(&str) -> Error) -> Result<()> {
    let is_taken = |known: &NamedNode| known.name == node.name && known.node.strong_count() > 0;
    let new = NamedNode {
        id: node.id.number(),
        name: node.name.clone(),
        node: Arc::downgrade(node),
        owned: is_owned.then(|| Arc::clone(node)),
    };
    let refused = with_names(|names| {
        if names.iter().any(is_taken) {
            return Some(new);
        }
        names.push(new);
        None
    });
    refused.map_or(Ok(()), |_| Err(duplicate(&node.name)))
}

/// The node of that name.
pub(super) fn find(name: &str) -> Option<Arc<Node>> {
    with_names(|names| {
        let mut known = names.iter().filter(|known| known.name == name);
        known.find_map(|known| known.node.upgrade())
    })
}

/// All nodes.
pub(super) fn list() -> Vec<Arc<Node>> {
    with_names(|names| {
        let mut nodes = Vec::with_capacity(names.len());
        nodes.extend(names.iter().filter_map(|known| known.node.upgrade()));
        nodes
    })
}

/// Whether the node is kept until it is removed.
pub(super) fn is_owned(node: &Node) -> bool {
    with_names(|names| {
        let known = names.iter().find(|known| known.id == node.id.number());
        known.is_some_and(|known| known.owned.is_some())
    })
}

/// Does not keep the node any longer, nor its name. False if it was not kept.
pub(super) fn leave(id: u64) -> bool {
    let gone = with_names(|names| {
        let is_kept = |known: &NamedNode| known.id == id && known.owned.is_some();
        let index = names.iter().position(is_kept)?;
        Some(names.remove(index))
    });
    // Dropped outside of the lock: it may be the last reference, which closes the image.
    gone.is_some()
}

/// The node has ended.
pub(super) fn forget(id: u64) {
    with_names(|names| names.retain(|known| known.id != id));
}

/// Runs `work` on the list under its lock. No node may be dropped in it. The list is consistent after every single operation
/// on it.
fn with_names<T>(work: impl FnOnce(&mut Vec<NamedNode>) -> T) -> T {
    work(&mut NAMES.lock().unwrap_or_else(PoisonError::into_inner))
}
