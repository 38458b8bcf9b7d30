//! `copy-on-read`: what is read from the backing files of an image is written into the image, so that it is there next time.
//!
//! The data is the same before and after, so the filter needs the permission `write unchanged` alone. A read that copies keeps writes to
//! the same range waiting, and a guest's memory is no part of it: the guest could change what is written. If the copy cannot be written,
//! the guest has its data nevertheless.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::slice;
use std::sync::Arc;

use super::{BLOCKDEV_REF, DriverType, child};
use crate::block::driver::{BlockDriver, Driver, NewNode};
use crate::block::gate::Gate;
use crate::block::graph::Edge;
use crate::block::image_info::ImageInfo;
use crate::block::io_buffer::IoBuffer;
use crate::block::node::Node;
use crate::block::permission::{Access, Permissions};
use crate::block::range_lock::RangeLock;
use crate::block::request::{Finished, Op, Request};
use crate::block::status::BlockStatus;
use crate::block::way::Way;
use crate::block::way::below::Below;
use crate::block::way::task::{Layer, Task, TaskWay};
use crate::object::Options;
use crate::schema::{Member, ValueType};
use crate::{Error, ErrorKind, Result};

/// The most bytes copied at once.
const COPY_MAX: u64 = 1 << 20;

/// A node that keeps what is read.
#[derive(Debug)]
struct CopyOnReadDriver {
    child: Edge,
    /// By its options.
    read_only: bool,
    /// Those being copied, and written.
    ranges: Arc<RangeLock>,
    /// What is behind this image is not kept.
    bottom: Option<Arc<Node>>,
}

/// One queue's part.
#[derive(Debug)]
struct CopyOnReadLayer {
    block_size: u64,
    /// What comes from a deeper image is not kept.
    depth_max: u32,
    ranges: Arc<RangeLock>,
    below: Arc<Below>,
}

/// The driver `copy-on-read`.
pub(super) const COPY_ON_READ: DriverType = DriverType {
    name: "copy-on-read",
    members: &[
        Member::new("file", ValueType::Alternate(&BLOCKDEV_REF)),
        Member::optional("bottom", ValueType::Str),
    ],
    open,
};

/// Opens what `-blockdev driver=copy-on-read` describes.
fn open(keys: &mut Options, node: &NewNode<'_>) -> Result<Box<dyn BlockDriver>> {
    let child = child::take(keys, "file", node)?;
    let bottom = keys.take_str("bottom")?;
    let bottom = bottom.map(|name| find_bottom(&name, &child)).transpose()?;
    with_bottom(&child, bottom, node)
}

/// The image that `bottom` names, which is the child itself or behind it.
fn find_bottom(name: &str, child: &Arc<Node>) -> Result<Arc<Node>> {
    let missing = || invalid(format!("Bottom node '{name}' not found"));
    let node = Node::find(name).map_err(|_| missing())?;
    if node.filtered().is_some() {
        return Err(invalid(format!("Bottom node '{name}' is a filter")));
    }
    match depth(child, &node) {
        Some(_) => Ok(node),
        None => Err(invalid(format!(
            "Bottom node '{name}' is not in a chain starting from '{}'",
            child.name()
        ))),
    }
}

/// How deep an image is in the chain that begins with `top`: 1 for the first one.
fn depth(top: &Arc<Node>, image: &Arc<Node>) -> Option<u32> {
    let (mut depth, mut next) = (1, Some(Arc::clone(top)));
    while let Some(node) = next {
        if node.id() == image.id() {
            return Some(depth);
        }
        next = node.filtered();
        if next.is_none() {
            next = node.backing();
            depth += 1;
        }
    }
    None
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

/// Makes `node` keep what is read from `child`.
pub(in crate::block) fn over(
    child: &Arc<Node>,
    node: &NewNode<'_>,
) -> Result<Box<dyn BlockDriver>> {
    with_bottom(child, None, node)
}

fn with_bottom(
    child: &Arc<Node>,
    bottom: Option<Arc<Node>>,
    node: &NewNode<'_>,
) -> Result<Box<dyn BlockDriver>> {
    if child.is_read_only() {
        let message = "Block node is read-only";
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let access = Access {
        needs: Permissions::WRITE_UNCHANGED,
        shares: Permissions::ALL,
    };
    Ok(Box::new(CopyOnReadDriver {
        child: child.attach(node.as_parent("file"), access)?,
        read_only: node.common.read_only.unwrap_or(false),
        ranges: Arc::default(),
        bottom,
    }))
}

impl CopyOnReadDriver {
    /// The depth of the bottom as it is now. Queues ask again when the chain has changed.
    fn depth_max(&self, child: &Arc<Node>) -> u32 {
        let bottom = self.bottom.as_ref();
        let found = bottom.and_then(|bottom| depth(child, bottom));
        found.unwrap_or(u32::MAX)
    }
}

impl BlockDriver for CopyOnReadDriver {
    fn driver(&self) -> Driver {
        Driver::CopyOnRead
    }

    fn open_way(&self, gate: &Arc<Gate>) -> Way {
        let child = self.child.node();
        TaskWay::open(gate, |new| {
            Arc::new(CopyOnReadLayer {
                block_size: child.block_size(),
                depth_max: self.depth_max(&child),
                ranges: Arc::clone(&self.ranges),
                below: new.open(|same| child.open_way(same)),
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

impl Layer for CopyOnReadLayer {
    fn run(self: Arc<Self>, request: Box<Request>) -> Task {
        Box::pin(async move {
            match request.op {
                Op::Read => self.read(request).await,
                Op::Flush | Op::BlockStatus | Op::Populate => self.below.submit(request).await,
                Op::Write | Op::Discard | Op::WriteZeroes { .. } => {
                    let mut ticket = self.ranges.shared_ticket(range(&request));
                    (&mut ticket).await;
                    self.below.submit(request).await
                }
            }
        })
    }

    fn takes_parts(&self) -> bool {
        self.below.takes_parts()
    }
}

impl CopyOnReadLayer {
    async fn read(&self, mut request: Box<Request>) -> Finished {
        match self.status(range(&request)).await {
            Ok(status) if !self.is_kept(status) && status.length >= request.length => {
                return self.below.submit(request).await;
            }
            Ok(_) => {}
            Err(result) => return Finished { request, result },
        }
        let mut ticket = self.ranges.ticket(range(&request));
        (&mut ticket).await;
        let result = match self.copy(&mut request).await {
            Ok(()) => {
                request.advance(request.length);
                0
            }
            Err(result) => result,
        };
        Finished { request, result }
    }

    /// Reads the range of the request into its memory, and writes what comes from a backing file.
    async fn copy(&self, request: &mut Request) -> std::result::Result<(), i32> {
        let whole = range(request);
        let mut at = whole.start;
        while at < whole.end {
            let status = self.status(at..whole.end).await?;
            let known = status.length.min(COPY_MAX) / self.block_size * self.block_size;
            let end = (at + known.max(self.block_size)).min(whole.end);
            let len = usize::try_from(end - at).map_err(|_| -libc::EINVAL)?;
            let read = self.transfer(Op::Read, at, IoBuffer::zeroed(len)).await;
            let (0, Some(data)) = read else {
                return Err(read.0.min(-1));
            };
            let skip = usize::try_from(at - whole.start).map_err(|_| -libc::EINVAL)?;
            request.scatter_from(skip, &data);
            if self.is_kept(status) {
                self.transfer(Op::Write, at, data).await;
            }
            at = end;
        }
        Ok(())
    }

    /// Whether what has this status is copied.
    fn is_kept(&self, status: BlockStatus) -> bool {
        (2..=self.depth_max).contains(&status.depth)
    }

    /// What is known about the beginning of a range, or a negative errno.
    async fn status(&self, range: Range<u64>) -> std::result::Result<BlockStatus, i32> {
        if range.is_empty() {
            return Ok(BlockStatus::data(0));
        }
        let mut request = self.below.request(Op::BlockStatus, range.start);
        request.set_length(range.end - range.start);
        let finished = self.below.submit(request).await;
        let status = finished.request.status();
        self.below.recycle(finished.request);
        match finished.result {
            0 => Ok(status),
            result => Err(result),
        }
    }

    /// Reads or writes memory that the request owns meanwhile. Returns the result and the memory.
    async fn transfer(&self, op: Op, offset: u64, memory: IoBuffer) -> (i32, Option<IoBuffer>) {
        let mut request = self.below.request(op, offset);
        request.own(memory);
        let mut finished = self.below.submit(request).await;
        let returned = finished.request.take_buffer();
        self.below.recycle(finished.request);
        (finished.result, returned)
    }
}

fn range(request: &Request) -> Range<u64> {
    request.offset..request.offset.saturating_add(request.length)
}

#[cfg(test)]
mod tests;
