//! The bitmaps of a node.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::DirtyBitmap;
use crate::block::way::Way;
use crate::block::way::marking::MarkingWay;

/// The bitmaps of a node, in the order of their making.
#[derive(Debug, Default)]
pub(in crate::block) struct NodeBitmaps(Mutex<Vec<Arc<DirtyBitmap>>>);

impl NodeBitmaps {
    /// A queue's way to the node, whose driver opened `way`.
    pub(in crate::block) fn mark(&self, way: Way) -> Way {
        let bitmaps = self.lock().clone();
        match bitmaps.is_empty() {
            true => way,
            false => Way::Marking(Box::new(MarkingWay::new(way, bitmaps))),
        }
    }

    /// The node has another length.
    pub(in crate::block) fn resize(&self, length: u64) {
        self.lock().iter().for_each(|one| one.bits().resize(length));
    }

    /// All of them.
    pub(in crate::block) fn all(&self) -> Vec<Arc<DirtyBitmap>> {
        self.lock().clone()
    }

    /// The one of that name.
    pub(in crate::block) fn find(&self, name: &str) -> Option<Arc<DirtyBitmap>> {
        let mut all = self.all().into_iter();
        all.find(|one| one.name() == Some(name))
    }

    /// Adds one. The node is drained, so queues see it when they open their ways.
    pub(in crate::block) fn add(&self, bitmap: &Arc<DirtyBitmap>) {
        self.lock().push(Arc::clone(bitmap));
    }

    /// Takes one out. Queues that know of it forget it with the next drain of the node.
    pub(in crate::block) fn remove(&self, bitmap: &Arc<DirtyBitmap>) {
        bitmap.set_recording(false);
        self.lock().retain(|one| !Arc::ptr_eq(one, bitmap));
    }

    /// The list is consistent after every single operation on it.
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<DirtyBitmap>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
