//! Drains wait for resizes, and resizes for drains.
//!
//! Used by a resize that passes nodes ([`ResizePass`](super::super::resize_pass::ResizePass)). A resize is no request, so no channel
//! counts it. If a node were opened anew meanwhile, two drivers would change one image, each with what it knows of it. A resize
//! passes all of its nodes, or none while it waits.
#![forbid(unsafe_code)]

use std::thread::{self, ThreadId};

use super::{Crossing, Traffic};
use crate::block::gate::CountQuiet;

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
    pub(in crate::block) fn enter_resize(&self) -> bool {
        let thread = thread::current().id();
        let mut traffic = self.lock();
        let may_pass = traffic.drains.is_empty() || traffic.resizes.0.contains(&thread);
        if may_pass {
            traffic.resizes.0.push(thread);
        }
        may_pass
    }

    pub(in crate::block) fn leave_resize(&self) {
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
    pub(in crate::block) fn wait_for_release(&self) {
        let is_drained = |traffic: &mut Traffic| !traffic.drains.is_empty();
        drop(self.released.wait_while(self.lock(), is_drained));
    }
}
