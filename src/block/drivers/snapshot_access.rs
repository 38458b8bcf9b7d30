//! `snapshot-access`: the data of a `copy-before-write` node as they were when that was opened.
//!
//! It is read through the NBD server, for example, while a guest writes. Discards of what was read spare the copies. Nothing can be
//! written.
#![forbid(unsafe_code)]

use std::slice;
use std::sync::Arc;

use super::{BLOCKDEV_REF, DriverType, child};
use crate::block::driver::{BlockDriver, Driver, NewNode};
use crate::block::gate::Gate;
use crate::block::graph::Edge;
use crate::block::permission::Access;
use crate::block::way::Way;
use crate::object::Options;
use crate::schema::{Member, ValueType};
use crate::{Error, ErrorKind, Result};

/// A node with the data as they were.
#[derive(Debug)]
struct SnapshotAccessDriver {
    child: Edge,
    /// By its options.
    read_only: bool,
}

/// The driver `snapshot-access`.
pub(super) const SNAPSHOT_ACCESS: DriverType = DriverType {
    name: "snapshot-access",
    members: &[Member::new("file", ValueType::Alternate(&BLOCKDEV_REF))],
    open,
};

/// Opens what `-blockdev driver=snapshot-access` describes.
fn open(keys: &mut Options, node: &NewNode<'_>) -> Result<Box<dyn BlockDriver>> {
    let child = child::take(keys, "file", node)?;
    if !child.keeps_old_data() {
        let message = format!(
            "snapshot-access needs a copy-before-write node, not '{}' ({})",
            child.name(),
            child.driver().name()
        );
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    Ok(Box::new(SnapshotAccessDriver {
        child: child.attach(node.as_separate_parent("file"), Access::NEUTRAL)?,
        read_only: node.common.read_only.unwrap_or(false),
    }))
}

impl BlockDriver for SnapshotAccessDriver {
    fn driver(&self) -> Driver {
        Driver::SnapshotAccess
    }

    fn open_way(&self, gate: &Arc<Gate>) -> Way {
        self.child.node().open_old_way(gate)
    }

    fn length(&self) -> Result<u64> {
        Ok(self.child.node().length())
    }

    fn set_length(&self, _: u64) -> Result<()> {
        let message = "a snapshot-access node keeps its length";
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    /// The data are in either of the nodes below.
    fn block_size(&self) -> u64 {
        let below = self.child.node().children().into_iter();
        let largest = below.map(|node| node.block_size()).max();
        largest.unwrap_or_else(|| self.child.node().block_size())
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn children(&self) -> &[Edge] {
        slice::from_ref(&self.child)
    }
}
