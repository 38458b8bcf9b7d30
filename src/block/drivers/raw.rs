//! `raw`: the bytes of another node as they are, or a part of them.
//!
//! It adds a name and may take writing away. Requests go the child's way. With `offset` or `size` they are moved to their place.
#![forbid(unsafe_code)]

use std::slice;
use std::sync::Arc;

use super::{BLOCKDEV_REF, DriverType, child};
use crate::block::driver::{BlockDriver, Driver, NewNode};
use crate::block::gate::Gate;
use crate::block::graph::Edge;
use crate::block::image_info::ImageInfo;
use crate::block::node::Node;
use crate::block::permission::Access;
use crate::block::request::{Finished, Op, Request, SECTOR};
use crate::block::way::Way;
use crate::block::way::below::Below;
use crate::block::way::task::{Layer, Task, TaskWay};
use crate::object::Options;
use crate::schema::{Member, ValueType};
use crate::{Error, ErrorKind, Result};

/// The driver `raw`.
pub(super) const RAW: DriverType = DriverType {
    name: "raw",
    members: &[
        Member::new("file", ValueType::Alternate(&BLOCKDEV_REF)),
        Member::optional("offset", ValueType::Size),
        Member::optional("size", ValueType::Size),
    ],
    open,
};

/// A raw image.
#[derive(Debug)]
struct RawDriver {
    child: Edge,
    /// By its options.
    read_only: bool,
    part: Part,
}

/// The bytes of the child that are the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Part {
    offset: u64,
    /// `None`: all that is behind the offset.
    size: Option<u64>,
}

/// Opens a raw image as `-blockdev` describes it.
fn open(keys: &mut Options, node: &NewNode<'_>) -> Result<Box<dyn BlockDriver>> {
    let part = Part {
        offset: keys.take_size("offset")?.unwrap_or(0),
        size: keys.take_size("size")?,
    };
    let child = child::take(keys, "file", node)?;
    part.check(&child)?;
    part_of(&child, part, node)
}

/// Makes `child` the bytes of the raw image `node`.
pub(in crate::block) fn over(
    child: &Arc<Node>,
    node: &NewNode<'_>,
) -> Result<Box<dyn BlockDriver>> {
    part_of(child, Part::default(), node)
}

fn part_of(child: &Arc<Node>, part: Part, node: &NewNode<'_>) -> Result<Box<dyn BlockDriver>> {
    Ok(Box::new(RawDriver {
        // It does nothing by itself; what its parents need and share holds for the child as well.
        child: child.attach(node.as_parent("file"), Access::NEUTRAL)?,
        read_only: node.common.read_only.unwrap_or(false),
        part,
    }))
}

impl Part {
    fn check(self, child: &Node) -> Result<()> {
        let (offset, length) = (self.offset, child.length());
        if self.size.is_some_and(|size| !size.is_multiple_of(SECTOR)) {
            return Err(invalid("Specified size is not multiple of 512"));
        }
        let Some(behind) = length.checked_sub(offset) else {
            return Err(invalid(format!(
                "Offset ({offset}) cannot be greater than size of the containing file ({length})"
            )));
        };
        if let Some(size) = self.size.filter(|&size| size > behind) {
            return Err(invalid(format!(
                "The sum of offset ({offset}) and size ({size}) has to be smaller or equal to the  actual size of the containing file \
                 ({length})"
            )));
        }
        let unit = child.block_size().max(SECTOR);
        match offset.is_multiple_of(unit) {
            true => Ok(()),
            false => Err(Error::new(
                ErrorKind::Unsupported,
                format!("offset={offset} is not supported: it is not a multiple of {unit}"),
            )),
        }
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidArgument, message.into())
}

impl BlockDriver for RawDriver {
    fn driver(&self) -> Driver {
        Driver::Raw
    }

    fn open_way(&self, gate: &Arc<Gate>) -> Way {
        let child = self.child.node();
        if self.part == Part::default() {
            return child.open_way(gate);
        }
        TaskWay::open(gate, |new| {
            Arc::new(PartLayer {
                part: self.part,
                below: new.open(|same| child.open_way(same)),
            })
        })
    }

    fn length(&self) -> Result<u64> {
        let behind = self.child.node().length().saturating_sub(self.part.offset);
        Ok(self.part.size.map_or(behind, |size| size.min(behind)))
    }

    fn set_length(&self, length: u64) -> Result<()> {
        if self.part.size.is_some() {
            return Err(invalid("Cannot resize fixed-size raw disks"));
        }
        let whole = length.checked_add(self.part.offset);
        let whole = whole.ok_or_else(|| invalid("Disk size too large for the chosen offset"))?;
        self.child.set_length(whole)
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

    fn children(&self) -> &[Edge] {
        slice::from_ref(&self.child)
    }
}

/// One queue's part of an image that is a part of its child.
#[derive(Debug)]
struct PartLayer {
    part: Part,
    below: Arc<Below>,
}

impl Layer for PartLayer {
    fn run(self: Arc<Self>, mut request: Box<Request>) -> Task {
        Box::pin(async move {
            let before = request.offset;
            if request.op != Op::Flush {
                match self.moved(&request) {
                    Some(offset) => request.offset = offset,
                    None => {
                        let result = -libc::EINVAL;
                        return Finished { request, result };
                    }
                }
            }
            let mut finished = self.below.submit(request).await;
            finished.request.offset = before;
            finished
        })
    }

    fn takes_parts(&self) -> bool {
        self.below.takes_parts()
    }
}

impl PartLayer {
    /// Where the request is in the child, if it is within the part.
    fn moved(&self, request: &Request) -> Option<u64> {
        let end = request.offset.checked_add(request.length)?;
        let is_within = self.part.size.is_none_or(|size| end <= size);
        end.checked_add(self.part.offset).filter(|_| is_within)?;
        Some(request.offset + self.part.offset)
    }
}

#[cfg(test)]
mod tests;
