//! Drains wait for resizes, and resizes for drains.
//!
//! Used by [`Node::set_length`]. A resize is no request, so no channel counts it. If a node were opened anew meanwhile, two drivers
//! would change one image, each with what it knows of it. A resize passes the node and those below, which may get another length
//! with it: all of them, or none while it waits.
//!
//! # Threads
//! A resize blocks its thread until no drain holds one of the nodes. So a thread that has drained a node does not resize it. If its
//! resize has passed, a thread may resize the nodes below as well, as filters do, even if drains have begun.
#![forbid(unsafe_code)]

use std::thread::{self, ThreadId};

use super::*;

/// A resize that drains wait for, until this is dropped.
#[must_use = "drains wait for the resize until this is dropped"]
pub(in crate::block) struct ResizePass<'a> {
    node: &'a Node,
    below: Vec<Arc<Node>>,
    /// How many of the nodes it has passed.
    passed: usize,
}

impl<'a> ResizePass<'a> {
    /// Waits until neither `node` nor one of the nodes below is drained.
    pub(in crate::block) fn wait(node: &'a Node) -> ResizePass<'a> {
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

/// The nodes below, each once.
fn nodes_below(node: &Node) -> Vec<Arc<Node>> {
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

/// The resizes that have passed a node, by their threads.
#[derive(Debug, Default)]
pub(super) struct Resizes(Vec<ThreadId>);

impl Resizes {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Crossing {
    /// A resize is going to pass the node. False if the node is drained and no resize of the same thread has passed it before.
    fn enter_resize(&self) -> bool {
        let thread = thread::current().id();
        let mut traffic = self.lock();
        let may_pass = traffic.drains.is_empty() || traffic.resizes.0.contains(&thread);
        if may_pass {
            traffic.resizes.0.push(thread);
        }
        may_pass
    }

    fn leave_resize(&self) {
        let thread = thread::current().id();
        let mut traffic = self.lock();
        let place = traffic.resizes.0.iter().position(|known| *known == thread);
        place.map(|place| traffic.resizes.0.swap_remove(place));
        // They all have begun since the first of these resizes passed: none passes a drained node.
        let waiting = match traffic.resizes.is_empty() {
            true => traffic.drains.clone(),
            false => Vec::new(),
        };
        drop(traffic);
        waiting.iter().for_each(|drain| drain.count_quiet());
    }

    /// Blocks the thread until no drain holds the node.
    fn wait_for_release(&self) {
        let is_drained = |traffic: &mut Traffic| !traffic.drains.is_empty();
        drop(self.released.wait_while(self.lock(), is_drained));
    }
}
