//! A node of sectors above another one, whose requests a test records or holds.
#![forbid(unsafe_code)]

use std::fmt;
use std::slice;
use std::sync::Arc;

use super::common::CommonOptions;
use super::driver::{BlockDriver, Driver};
use super::gate::Gate;
use super::graph::Edge;
use super::node::Node;
use super::permission::Access;
use super::range_lock::RangeLock;
use super::request::{Op, Request, SECTOR};
use super::way::Way;
use super::way::below::Below;
use super::way::task::{Layer, Task, TaskWay};
use crate::Result;

/// Makes the layer of one queue, above its way to the node.
type MakeLayer = Box<dyn Fn(Arc<Below>) -> Arc<dyn Layer> + Send + Sync>;

struct TestFilter {
    child: Edge,
    make: MakeLayer,
}

/// A node above `child` with the layers that `make` makes.
pub(super) fn filter(
    child: &Arc<Node>,
    make: impl Fn(Arc<Below>) -> Arc<dyn Layer> + Send + Sync + 'static,
) -> Arc<Node> {
    let node = Node::child(None, CommonOptions::default(), |node| {
        Ok(Box::new(TestFilter {
            child: child.attach(node.as_parent("file"), Access::NEUTRAL)?,
            make: Box::new(make),
        }))
    });
    node.unwrap()
}

/// The first byte of writes that [`holding`] holds.
pub(super) const HELD: u8 = 0xaa;

/// A node above `child` that keeps writes of data that begins with [`HELD`] for as long as `hold` is locked.
pub(super) fn holding(child: &Arc<Node>, hold: &Arc<RangeLock>) -> Arc<Node> {
    let hold = Arc::clone(hold);
    filter(child, move |below| {
        Arc::new(HoldingLayer {
            below,
            hold: Arc::clone(&hold),
        })
    })
}

#[derive(Debug)]
struct HoldingLayer {
    below: Arc<Below>,
    hold: Arc<RangeLock>,
}

impl Layer for HoldingLayer {
    fn run(self: Arc<Self>, request: Box<Request>) -> Task {
        Box::pin(async move {
            let mut first = [0];
            if request.op == Op::Write {
                request.copy_out(&mut first);
            }
            if first == [HELD] {
                self.hold.ticket(0..1).await;
            }
            self.below.submit(request).await
        })
    }
}

impl fmt::Debug for TestFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestFilter").finish_non_exhaustive()
    }
}

impl BlockDriver for TestFilter {
    fn driver(&self) -> Driver {
        Driver::Raw
    }

    fn open_way(&self, gate: &Arc<Gate>) -> Way {
        TaskWay::open(gate, |new| {
            let below = new.open(|same| self.child.node().open_way(same));
            (self.make)(below)
        })
    }

    fn length(&self) -> Result<u64> {
        Ok(self.child.node().length())
    }

    fn set_length(&self, length: u64) -> Result<()> {
        self.child.node().set_length(length)
    }

    fn block_size(&self) -> u64 {
        self.child.node().block_size().max(SECTOR)
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn children(&self) -> &[Edge] {
        slice::from_ref(&self.child)
    }
}
