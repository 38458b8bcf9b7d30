//! `blkdebug`: makes requests to another node fail, or wait, as rules say. For tests.
//!
//! The rules are QEMU's, for the events that a node sees in the requests that reach it. QEMU's format drivers report events
//! of their own, for example that they update a table; there are none of these here. `x-inject-delay` is an addition: the same
//! conditions, and requests that wait.
//!
//! * [`rules`]: which request fails or waits
//! * [`options`], [`members`]: the rules as options, and their types
#![forbid(unsafe_code)]

use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{BLOCKDEV_REF, DriverType, child};
use crate::Result;
use crate::block::driver::{BlockDriver, Driver, NewNode};
use crate::block::gate::Gate;
use crate::block::graph::Edge;
use crate::block::image_info::ImageInfo;
use crate::block::request::{Finished, Op, Request};
use crate::block::way::Way;
use crate::block::way::below::Below;
use crate::block::way::task::queue::TaskQueue;
use crate::block::way::task::{Layer, Task, TaskWay};
use crate::object::Options;
use crate::schema::{Member, ValueType};

mod members;
mod options;
mod rules;
#[cfg(test)]
mod tests;

use members::{INJECT_DELAY, INJECT_ERROR, PERMISSION, SET_STATE};
use rules::{Event, Rules};

/// A node whose requests fail or wait as its rules say.
#[derive(Debug)]
struct BlkdebugDriver {
    child: Edge,
    /// By its options.
    read_only: bool,
    block_size: u64,
    rules: Arc<Mutex<Rules>>,
}

/// One queue's part.
#[derive(Debug)]
struct BlkdebugLayer {
    rules: Arc<Mutex<Rules>>,
    queue: Arc<TaskQueue>,
    passes_parts: bool,
    below: Arc<Below>,
}

static MEMBERS: [Member; 7] = [
    Member::new("image", ValueType::Alternate(&BLOCKDEV_REF)),
    Member::optional("align", ValueType::Size),
    Member::optional(
        "inject-error",
        ValueType::Array(&ValueType::Object(&INJECT_ERROR)),
    ),
    Member::optional(
        "x-inject-delay",
        ValueType::Array(&ValueType::Object(&INJECT_DELAY)),
    ),
    Member::optional(
        "set-state",
        ValueType::Array(&ValueType::Object(&SET_STATE)),
    ),
    Member::optional(
        "take-child-perms",
        ValueType::Array(&ValueType::Enum(PERMISSION)),
    ),
    Member::optional(
        "unshare-child-perms",
        ValueType::Array(&ValueType::Enum(PERMISSION)),
    ),
];

/// The driver `blkdebug`.
pub(super) const BLKDEBUG: DriverType = DriverType {
    name: "blkdebug",
    members: &MEMBERS,
    open,
};

/// Opens what `-blockdev driver=blkdebug` describes.
fn open(keys: &mut Options, node: &NewNode<'_>) -> Result<Box<dyn BlockDriver>> {
    let taken = options::take(keys)?;
    let child = child::take(keys, "image", node)?;
    let read_only = node.common.read_only.unwrap_or(false);
    Ok(Box::new(BlkdebugDriver {
        block_size: taken.align.max(child.block_size()),
        read_only,
        rules: Arc::new(Mutex::new(taken.rules)),
        child: child.attach(node.as_parent("image"), taken.access)?,
    }))
}

impl BlockDriver for BlkdebugDriver {
    fn driver(&self) -> Driver {
        Driver::Blkdebug
    }

    fn open_way(&self, gate: &Arc<Gate>) -> Way {
        TaskWay::open(gate, |new| {
            Arc::new(BlkdebugLayer {
                rules: Arc::clone(&self.rules),
                queue: Arc::clone(new.queue()),
                passes_parts: self.passes_parts_to().is_some(),
                below: new.open(|same| self.child.node().open_way(same)),
            })
        })
    }

    fn length(&self) -> Result<u64> {
        Ok(self.child.node().length() / self.block_size * self.block_size)
    }

    fn set_length(&self, length: u64) -> Result<()> {
        self.child.set_length(length)
    }

    fn block_size(&self) -> u64 {
        self.block_size
    }

    fn passes_parts_to(&self) -> Option<&Edge> {
        let child = self.child.node();
        Some(&self.child).filter(|_| child.block_size() == self.block_size)
    }

    fn is_read_only(&self) -> bool {
        self.read_only || self.child.node().is_read_only()
    }

    /// As in QEMU, which does not say how much storage is below.
    fn allocated(&self) -> Option<u64> {
        None
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

impl Layer for BlkdebugLayer {
    fn run(self: Arc<Self>, request: Box<Request>) -> Task {
        Box::pin(async move { self.carry_out(request).await })
    }

    fn takes_parts(&self) -> bool {
        self.passes_parts && self.below.takes_parts()
    }
}

impl BlkdebugLayer {
    async fn carry_out(&self, request: Box<Request>) -> Finished {
        let verdict = self.rules().judge(&request);
        if let Some(delay_ns) = verdict.delay_ns {
            self.queue.sleep_ns(delay_ns).await;
        }
        if let Some(failure) = verdict.failure {
            if !failure.is_immediate {
                // In another iteration.
                self.queue.sleep_ns(0).await;
            }
            let result = -failure.errno;
            return Finished { request, result };
        }
        let finished = self.below.submit(request).await;
        if finished.request.op == Op::Write {
            self.rules().occur(Event::PwritevDone);
        }
        finished
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
