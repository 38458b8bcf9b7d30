//! A file of an image, on the way of one queue.
//!
//! What an image says of its files is not trusted. A read that begins behind the end of a file is an error, and what is behind the
//! end is zero. A read that is not aligned to the blocks of the file goes through memory of its own.
#![allow(unsafe_code)] // requests to memory that is lent

use std::io;
use std::sync::Arc;

use super::corrupt;
use crate::Error;
use crate::Result;
use crate::block::errand;
use crate::block::io_buffer::IoBuffer;
use crate::block::node::Node;
use crate::block::request::{Finished, Op, Request, SECTOR};
use crate::block::way::below::Below;
use crate::block::way::task::NewLayer;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct ImageFile {
    node: Arc<Node>,
    below: Arc<Below>,
}

impl ImageFile {
    pub(super) fn open(node: &Arc<Node>, new: &mut NewLayer) -> ImageFile {
        ImageFile {
            node: Arc::clone(node),
            below: new.open(|gate| node.open_way(gate)),
        }
    }

    /// Reads `count` bytes at `offset` into the next memory of a request.
    pub(super) async fn read_into(
        &self,
        request: &mut Request,
        count: u64,
        offset: u64,
    ) -> io::Result<()> {
        let unit = self.node.block_size().max(SECTOR);
        let is_aligned = offset.is_multiple_of(unit) && count.is_multiple_of(unit);
        let end = offset.checked_add(count);
        let is_inside = end.is_some_and(|end| end <= self.node.length());
        let len = usize::try_from(count).map_err(io::Error::other)?;
        if is_aligned && is_inside {
            let mut own = self.below.request(Op::Read, offset);
            // SAFETY: the request is borrowed to the end of this function, which `Below::finish` does not leave early.
            unsafe { request.lend(len, &mut own) };
            self.below.finish(own).await?;
            request.advance(count);
            return Ok(());
        }
        // No more at once than one bounce buffer should have.
        let len = len.min(BOUNCE_MAX);
        let bytes = self.read(offset, len).await?;
        request.scatter(&bytes);
        request.advance(len as u64);
        Ok(())
    }

    /// Reads `len` bytes at `offset`.
    pub(super) async fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let unit = self.node.block_size().max(SECTOR);
        let file_len = self.node.length();
        let end = offset.checked_add(len as u64).filter(|_| offset < file_len);
        let end = end.ok_or_else(|| corrupt("data behind the end of the file"))?;
        let start = offset / unit * unit;
        let read_end = end
            .checked_next_multiple_of(unit)
            .map(|end| end.min(file_len));
        let read_len = read_end.unwrap_or(start) - start;
        let read_len = usize::try_from(read_len).map_err(io::Error::other)?;
        let mut request = self.below.request(Op::Read, start);
        request.own(IoBuffer::zeroed(read_len));
        let Finished {
            mut request,
            result,
        } = self.below.submit(request).await;
        let buffer = request.take_buffer();
        self.below.recycle(request);
        if result != 0 {
            return Err(io::Error::from_raw_os_error(-result));
        }
        let skip = usize::try_from(offset - start).map_err(io::Error::other)?;
        let read = buffer.as_ref().and_then(|bytes| bytes.get(skip..));
        let mut bytes = read.unwrap_or_default().to_vec();
        bytes.resize(len, 0);
        Ok(bytes)
    }
}

/// The most bytes of a read that is not aligned.
const BOUNCE_MAX: usize = 64 * 1024;

/// Reads bytes of a node while an image is opened. What is behind its end is zero.
///
/// # Errors
/// They cannot be read.
pub(in crate::block::drivers) fn read_node(
    node: &Arc<Node>,
    offset: u64,
    len: usize,
) -> Result<Vec<u8>> {
    if offset >= node.length() {
        return Ok(vec![0; len]);
    }
    let bytes = errand::run(|new| {
        let file = ImageFile::open(node, new);
        async move { file.read(offset, len).await }
    })?;
    bytes.map_err(|error| Error::os("Could not read the image's metadata", error))
}
