//! What is written to a node from a moment on, for jobs: a bitmap without a name.
#![forbid(unsafe_code)]

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::dirty_bitmap::DirtyBitmap;
use super::dirty_bitmap::bits::DirtyBits;
use super::drain::DrainedNodes;
use super::node::Node;
use crate::{Error, ErrorKind, Result};

/// What is written to a node from a moment on; for a job. It ends when this is dropped. (The queues that know of it keep its memory until
/// their next drain.)
///
/// It is the dirty ranges themselves: see [`DirtyBits`].
pub struct WriteRecord {
    node: Arc<Node>,
    bitmap: Arc<DirtyBitmap>,
}

impl WriteRecord {
    /// Begins to record what is written to `node`, which is drained.
    ///
    /// # Errors
    /// `InvalidArgument` if the node is not drained, or for a wrong granularity; `LimitExceeded` if the node has too many granules.
    pub fn begin(
        node: &Arc<Node>,
        drained: &DrainedNodes,
        granularity: u64,
    ) -> Result<WriteRecord> {
        if !drained.contains(node) {
            let message = format!("node '{}' is not drained", node.name());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let bitmap = node.add_bitmap(|length| {
            let bits = DirtyBits::new(length, granularity)?;
            Ok(DirtyBitmap::new(None, bits))
        })?;
        Ok(WriteRecord {
            node: Arc::clone(node),
            bitmap,
        })
    }

    /// The node.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }
}

impl Deref for WriteRecord {
    type Target = DirtyBits;

    fn deref(&self) -> &DirtyBits {
        self.bitmap.bits()
    }
}

impl Drop for WriteRecord {
    fn drop(&mut self) {
        self.node.bitmaps().remove(&self.bitmap);
    }
}

impl fmt::Debug for WriteRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteRecord")
            .field("node", &self.node.name())
            .field("count", &self.count())
            .finish()
    }
}

#[cfg(test)]
mod tests;
