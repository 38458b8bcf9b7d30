//! `throttle`: requests to another node wait as the limits of a throttle group say.
//!
//! Reads are subject to the limits for reads; writes, zeroes and discards to those for writes. A flush never waits. While the
//! channel is drained, or the device is to rest, requests pass at once and count: so a drain takes no longer than the data.
#![forbid(unsafe_code)]

use std::slice;
use std::sync::Arc;

use super::{BLOCKDEV_REF, DriverType, child};
use crate::Result;
use crate::block::driver::{BlockDriver, Driver, NewNode};
use crate::block::gate::Gate;
use crate::block::graph::Edge;
use crate::block::image_info::ImageInfo;
use crate::block::node::Node;
use crate::block::permission::Access;
use crate::block::request::{Op, Request};
use crate::block::throttle::{Direction, ThrottleGroup, ThrottleMember};
use crate::block::way::Way;
use crate::block::way::below::Below;
use crate::block::way::task::queue::TaskQueue;
use crate::block::way::task::{Layer, Task, TaskWay};
use crate::object::Options;
use crate::schema::{Member, ValueType};

#[cfg(test)]
mod tests;

/// A node whose requests wait for their turn.
#[derive(Debug)]
struct ThrottleDriver {
    child: Edge,
    member: Arc<ThrottleMember>,
    /// By its options.
    read_only: bool,
}

/// One queue's part.
#[derive(Debug)]
struct ThrottleLayer {
    member: Arc<ThrottleMember>,
    queue: Arc<TaskQueue>,
    below: Arc<Below>,
}

/// The driver `throttle`.
pub(super) const THROTTLE: DriverType = DriverType {
    name: "throttle",
    members: &[
        Member::new("throttle-group", ValueType::Str),
        Member::new("file", ValueType::Alternate(&BLOCKDEV_REF)),
    ],
    open,
};

/// Opens what `-blockdev driver=throttle` describes.
fn open(keys: &mut Options, node: &NewNode<'_>) -> Result<Box<dyn BlockDriver>> {
    let group = keys.need_str("throttle-group")?;
    let group = ThrottleGroup::find(&group)?;
    let child = child::take(keys, "file", node)?;
    over(&child, group, node)
}

/// Makes the requests of `node` to `child` wait for their turn in `group`.
pub(in crate::block) fn over(
    child: &Arc<Node>,
    group: Arc<ThrottleGroup>,
    node: &NewNode<'_>,
) -> Result<Box<dyn BlockDriver>> {
    Ok(Box::new(ThrottleDriver {
        member: Arc::new(group.join()?),
        read_only: node.common.read_only.unwrap_or(false),
        child: child.attach(node.as_parent("file"), Access::NEUTRAL)?,
    }))
}

impl BlockDriver for ThrottleDriver {
    fn driver(&self) -> Driver {
        Driver::Throttle
    }

    fn open_way(&self, gate: &Arc<Gate>) -> Way {
        TaskWay::open(gate, |new| {
            Arc::new(ThrottleLayer {
                member: Arc::clone(&self.member),
                queue: Arc::clone(new.queue()),
                below: new.open(|same| self.child.node().open_way(same)),
            })
        })
    }

    fn length(&self) -> Result<u64> {
        Ok(self.child.node().length())
    }

    fn set_length(&self, length: u64) -> Result<()> {
        self.child.set_length(length)
    }

    fn block_size(&self) -> u64 {
        self.child.node().block_size()
    }

    fn passes_parts_to(&self) -> Option<&Edge> {
        Some(&self.child)
    }

    fn is_read_only(&self) -> bool {
        self.read_only || self.child.node().is_read_only()
    }

    fn image_info(&self) -> ImageInfo {
        ImageInfo::passed_on(&self.child.node())
    }

    fn is_filter(&self) -> bool {
        true
    }

    fn children(&self) -> &[Edge] {
        slice::from_ref(&self.child)
    }
}

impl Layer for ThrottleLayer {
    fn run(self: Arc<Self>, request: Box<Request>) -> Task {
        Box::pin(async move {
            let direction = match request.op {
                Op::Flush | Op::BlockStatus => None,
                Op::Read => Some(Direction::Read),
                Op::Write | Op::Discard | Op::WriteZeroes { .. } | Op::Populate => {
                    Some(Direction::Write)
                }
            };
            if let Some(direction) = direction {
                self.member
                    .turn(&self.queue, direction, request.length)
                    .await;
            }
            self.below.submit(request).await
        })
    }

    fn takes_parts(&self) -> bool {
        self.below.takes_parts()
    }

    fn hurry(&self) {
        self.member.let_pass(&self.queue);
    }
}
