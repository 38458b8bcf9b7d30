//! Chains of images: an image, the one behind it, and so on, with the filters between them.
//!
//! Used by jobs that copy within a chain, and by queries.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::graph::edges;
use super::node::Node;
use crate::{Error, ErrorKind, Result};

/// The node and all that it takes data from, down to the last one.
#[doc(hidden)] // for the monitor's queries and for exports
pub fn chain_of(node: &Arc<Node>) -> Vec<Arc<Node>> {
    std::iter::successors(Some(Arc::clone(node)), |last| next_in_chain(last)).collect()
}

/// What a filter is over, or the image behind an image.
#[doc(hidden)] // for the monitor's queries
pub fn next_in_chain(node: &Node) -> Option<Arc<Node>> {
    node.filtered().or_else(|| node.backing())
}

/// Whether the node is no image of its own.
pub(super) fn is_filter(node: &Node) -> bool {
    node.filtered().is_some()
}

/// The links of a chain: each node with the next one.
pub(super) fn links(chain: &[Arc<Node>]) -> Vec<(Arc<Node>, Arc<Node>)> {
    let pair = |pair: &[Arc<Node>]| (Arc::clone(&pair[0]), Arc::clone(&pair[1]));
    chain.windows(2).map(pair).collect()
}

/// Checks that the node is not below another one.
///
/// # Errors
/// It is.
pub(super) fn check_root(node: &Node) -> Result<()> {
    let parents = node.parents();
    match parents.iter().any(|parent| parent.node_id().is_some()) {
        true => {
            let message = "Need a root block node";
            Err(Error::new(ErrorKind::InvalidArgument, message))
        }
        false => Ok(()),
    }
}

/// The place of a node in a chain.
pub(super) fn position(chain: &[Arc<Node>], node: &Node) -> Option<usize> {
    chain.iter().position(|known| known.id() == node.id())
}

/// The nodes right above, and what the node is for them.
pub(super) fn users(node: &Node) -> Vec<(Arc<Node>, &'static str)> {
    let nodes = Node::list();
    let of_node = edges().into_iter().filter(|edge| edge.child == node.id());
    let user = |edge: super::EdgeInfo| {
        let parent = edge.parent.node_id()?;
        let known = nodes.iter().find(|known| known.id() == parent)?;
        Some((Arc::clone(known), edge.parent.role()))
    };
    of_node.filter_map(user).collect()
}

/// The images that name the node as their backing file, through filters.
pub(super) fn overlays(node: &Node) -> Vec<Arc<Node>> {
    let mut found = Vec::new();
    for (user, role) in users(node) {
        match role {
            "backing" => found.push(user),
            _ if is_filter(&user) => found.extend(overlays(&user)),
            _ => {}
        }
    }
    found
}

/// The nodes below a node that are in its way to the data, each once.
pub(super) fn nodes_below(node: &Node) -> Vec<Arc<Node>> {
    let mut found: Vec<Arc<Node>> = Vec::new();
    let mut left = node.children();
    while let Some(child) = left.pop() {
        if !found.iter().any(|known| known.id() == child.id()) {
            left.extend(child.children());
            found.push(child);
        }
    }
    found
}
