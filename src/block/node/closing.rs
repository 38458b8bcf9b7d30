//! The end of the program: what nodes have in memory gets to their images, and servers hear that their clients go.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::{Node, names};
use crate::block::errand;
use crate::block::request::Op;
use crate::{Error, Result};

impl Node {
    /// The program ends, and no device, export or job uses nodes any more: each is flushed and closed, those above before those
    /// below. It blocks the thread, but does not wait for a server that is lost. What fails is warned about.
    pub fn close_all() {
        errand::hurried(|| {
            let mut left = names::list();
            while let Some(node) = take_top(&mut left) {
                close(node);
            }
        });
    }

    /// Makes durable what was written. It blocks the thread.
    fn flush_now(&self) -> Result<()> {
        let flushed = errand::run(|new| {
            let below = new.open(|gate| self.open_way(gate));
            async move { below.finish(below.request(Op::Flush, 0)).await }
        })?;
        flushed.map_err(|error| Error::os("fdatasync", error))
    }
}

/// Takes a node out that is below none of the others.
fn take_top(left: &mut Vec<Arc<Node>>) -> Option<Arc<Node>> {
    let is_below = |node: &Arc<Node>| {
        let mut parents = node.parents().into_iter();
        parents.any(|parent| left.iter().any(|above| parent.node_id() == Some(above.id)))
    };
    let top = left.iter().position(|node| !is_below(node))?;
    Some(left.remove(top))
}

fn close(node: Arc<Node>) {
    if !node.is_read_only()
        && let Err(error) = node.flush_now()
    {
        let name = &node.name;
        glib::g_warning!(
            "qcontext",
            "the last flush of node '{name}' failed: {error}"
        );
    }
    names::leave(node.id.number());
    // The last reference closes the image. If there is another one, the bitmaps still have to be stored.
    if let Err(node) = Arc::try_unwrap(node) {
        node.store_bitmaps();
    }
}
