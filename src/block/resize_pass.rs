//! A resize on its way: it passes a node and those below, which may get another length with it.
//!
//! Used by [`Node::set_length`]. Drains wait for it, and it waits for drains; see [`super::drain`].
//!
//! # Threads
//! A resize blocks its thread until no drain holds one of the nodes. So a thread that has drained a node does not resize it. If its
//! resize has passed, a thread may resize the nodes below as well, as filters do, even if drains have begun.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::chain::nodes_below;
use super::drain::Crossing;
use super::node::Node;

/// A resize that drains wait for, until this is dropped.
#[must_use = "drains wait for the resize until this is dropped"]
pub(super) struct ResizePass<'a> {
    node: &'a Node,
    below: Vec<Arc<Node>>,
    /// How many of the nodes it has passed.
    passed: usize,
}

impl<'a> ResizePass<'a> {
    /// Waits until neither `node` nor one of the nodes below is drained.
    pub(super) fn wait(node: &'a Node) -> ResizePass<'a> {
        loop {
            let mut pass = ResizePass {
                node,
                below: nodes_below(node),
                passed: 0,
            };
            // A change that was waited for may have given it other children.
            if pass.enter() && pass.is_whole() {
                return pass;
            }
        }
    }

    /// Passes all nodes. If one is drained, leaves the others and waits for its release.
    fn enter(&mut self) -> bool {
        let count = 1 + self.below.len();
        while self.passed < count && self.crossing(self.passed).enter_resize() {
            self.passed += 1;
        }
        if self.passed == count {
            return true;
        }
        let drained = self.passed;
        self.leave();
        self.crossing(drained).wait_for_release();
        false
    }

    fn is_whole(&self) -> bool {
        let now = nodes_below(self.node);
        let ids = |nodes: &[Arc<Node>]| nodes.iter().map(|node| node.id()).collect::<Vec<_>>();
        ids(&now) == ids(&self.below)
    }

    fn leave(&mut self) {
        for index in 0..std::mem::take(&mut self.passed) {
            self.crossing(index).leave_resize();
        }
    }

    fn crossing(&self, index: usize) -> &Crossing {
        match index {
            0 => self.node.crossing(),
            _ => self.below[index - 1].crossing(),
        }
    }
}

impl Drop for ResizePass<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}
