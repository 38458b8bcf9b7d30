//! `raw`: the bytes of another node as they are.
//!
//! It adds a name and may take writing away. Requests go the child's way.
#![forbid(unsafe_code)]

use std::slice;
use std::sync::Arc;

use super::{BLOCKDEV_REF, DriverType, child};
use crate::Result;
use crate::block::driver::{BlockDriver, Driver, NewNode};
use crate::block::gate::Gate;
use crate::block::graph::Edge;
use crate::block::node::Node;
use crate::block::permission::Access;
use crate::block::way::Way;
use crate::object::Options;
use crate::schema::{Member, ValueType};

/// The driver `raw`.
pub(super) const RAW: DriverType = DriverType {
    name: "raw",
    members: &[Member::new("file", ValueType::Alternate(&BLOCKDEV_REF))],
    open,
};

/// A raw image.
#[derive(Debug)]
struct RawDriver {
    child: Edge,
    /// By its options.
    read_only: bool,
}

/// Opens a raw image as `-blockdev` describes it.
fn open(keys: &mut Options, node: &NewNode<'_>) -> Result<Box<dyn BlockDriver>> {
    let child = child::take(keys, "file", node)?;
    over(&child, node)
}

/// Makes `child` the bytes of the raw image `node`.
pub(in crate::block) fn over(
    child: &Arc<Node>,
    node: &NewNode<'_>,
) -> Result<Box<dyn BlockDriver>> {
    let read_only = node.common.read_only.unwrap_or(false);
    // It does nothing by itself; what its parents need and share holds for the child as well.
    let child = child.attach(node.as_parent("file"), Access::NEUTRAL)?;
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
        self.read_only || self.child.node().is_read_only()
    }

    fn children(&self) -> &[Edge] {
        slice::from_ref(&self.child)
    }
}
