//! A look at what is written to a node, for a job that copies the node meanwhile.
//!
//! Used by a mirror. A node has one tap at most. It is set and taken away while the node is drained, so each way through the node has it
//! from its first request to its last, whichever parent of the node the requests come from.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::gate::Gate;
use super::way::Way;
use super::way::task::{Layer, NewLayer, TaskWay};

/// What looks at the requests to a node.
pub(super) trait WriteTap: fmt::Debug + Send + Sync {
    /// Makes one queue's part, over the way to the data that `open` opens.
    fn layer(&self, new: &mut NewLayer, open: &mut dyn FnMut(&Arc<Gate>) -> Way) -> Arc<dyn Layer>;
}

/// A node's tap, or none.
#[derive(Debug, Default)]
pub(super) struct TapSlot(Mutex<Option<Arc<dyn WriteTap>>>);

impl TapSlot {
    /// Sets another tap, or none. The node is drained.
    pub(super) fn set(&self, tap: Option<Arc<dyn WriteTap>>) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *slot, tap);
        drop(slot);
        drop(before);
    }

    fn get(&self) -> Option<Arc<dyn WriteTap>> {
        let slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.clone()
    }

    /// Opens the way of a queue, with the tap's part if there is one. `open` opens the rest.
    pub(super) fn open_way(
        &self,
        gate: &Arc<Gate>,
        mut open: impl FnMut(&Arc<Gate>) -> Way,
    ) -> Way {
        match self.get() {
            None => open(gate),
            Some(tap) => TaskWay::open(gate, |new| tap.layer(new, &mut open)),
        }
    }
}
