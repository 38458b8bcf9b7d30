//! `raw`: the bytes of another node as they are.
//!
//! It adds a name and may take writing away. Requests go the child's way.
#![forbid(unsafe_code)]

use std::slice;
use std::sync::Arc;

use crate::block::driver::{BlockDriver, Driver, NewNode};
use crate::block::gate::Gate;
use crate::block::graph::Edge;
use crate::block::node::Node;
use crate::block::permission::Access;
use crate::block::way::Way;
use crate::object::Options;
use crate::{Error, ErrorKind, Result};

/// A raw image.
#[derive(Debug)]
struct RawDriver {
    child: Edge,
    read_only: bool,
}

/// Opens a raw image as `-blockdev` describes it: over a node by name, or over one described in place
/// (`file.driver=...`).
pub(super) fn open(keys: &mut Options, node: &NewNode<'_>) -> Result<Box<dyn BlockDriver>> {
    let read_only = keys.take_bool("read-only")?;
    let child = super::child::take(keys, "file")?;
    over(&child, read_only, node)
}

/// Makes `child` the bytes of the raw image `node`.
pub(in crate::block) fn over(
    child: &Arc<Node>,
    read_only: Option<bool>,
    node: &NewNode<'_>,
) -> Result<Box<dyn BlockDriver>> {
    if read_only == Some(false) && child.is_read_only() {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            "Block node is read-only",
        ));
    }
    let read_only = read_only.unwrap_or(false) || child.is_read_only();
    // It does nothing by itself; what its parents need and share holds for the child as well.
    let child = child.attach(node.as_parent(), Access::NEUTRAL)?;
    Ok(Box::new(RawDriver { child, read_only }))
}

impl BlockDriver for RawDriver {
    fn driver(&self) -> Driver {
        Driver::Raw
    }

    fn open_way(&self, gate: &Arc<Gate>) -> Way {
        self.child.node().open_way(gate)
    }

    fn length(&self) -> Result<u64> {
        Ok(self.child.node().length())
    }

    fn set_length(&self, length: u64) -> Result<()> {
        self.child.node().set_length(length)
    }

    fn block_size(&self) -> u64 {
        self.child.node().block_size()
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn filename(&self) -> Option<&str> {
        self.child.node().filename()
    }

    fn data_syncs(&self) -> u64 {
        self.child.node().data_syncs()
    }

    fn children(&self) -> &[Edge] {
        slice::from_ref(&self.child)
    }
}
