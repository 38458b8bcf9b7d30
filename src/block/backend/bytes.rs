//! Requests that need not be made of whole blocks.
//!
//! A read goes through a copy of the blocks around it, and a discard leaves out what fills no block. A write is submitted as it is.
//! If its channel refuses it, because the node has larger blocks and no order of writes, the backend becomes a writer of parts of
//! blocks ([`crate::block::partial_write`]) and submits it again. The other requests are made again if they are refused: the node
//! has got larger blocks since.
#![forbid(unsafe_code)]

use std::io;
use std::ops::Range;

use super::{BlockBackend, result_of};
use crate::block::io_buffer::IoBuffer;
use crate::block::partial_write::{blocks_around, blocks_inside};
use crate::block::request::{Finished, Op};
use crate::block::status::BlockStatus;

pub(super) async fn read(
    backend: &BlockBackend,
    offset: u64,
    mut buffer: IoBuffer,
) -> (io::Result<()>, IoBuffer) {
    let range = match check(backend, offset, buffer.len() as u64) {
        Ok(range) => range,
        Err(error) => return (Err(error), buffer),
    };
    loop {
        let blocks = backend.blocks(&range);
        let (result, is_too_fine);
        if blocks == range {
            (result, buffer, is_too_fine) = transfer(backend, Op::Read, offset, buffer).await;
        } else {
            let copy = IoBuffer::zeroed(index(blocks.end - blocks.start));
            let copied;
            (result, copied, is_too_fine) = transfer(backend, Op::Read, blocks.start, copy).await;
            let skip = index(range.start - blocks.start);
            let count = buffer.len();
            buffer.copy_from_slice(&copied[skip..skip + count]);
        }
        if !is_too_fine {
            return (result, buffer);
        }
    }
}

pub(super) async fn write(
    backend: &BlockBackend,
    offset: u64,
    mut buffer: IoBuffer,
) -> (io::Result<()>, IoBuffer) {
    let checked = check(backend, offset, buffer.len() as u64);
    if checked.is_err() || buffer.is_empty() {
        return (checked.map(drop), buffer);
    }
    loop {
        let (result, is_too_fine);
        (result, buffer, is_too_fine) = transfer(backend, Op::Write, offset, buffer).await;
        if !is_too_fine {
            return (result, buffer);
        }
        backend.order_partial_writes().await;
    }
}

pub(super) async fn write_zeroes(
    backend: &BlockBackend,
    offset: u64,
    length: u64,
    unmap: bool,
    is_fast: bool,
) -> io::Result<()> {
    if check(backend, offset, length)?.is_empty() {
        return Ok(());
    }
    loop {
        let mut request = backend.request(Op::WriteZeroes { unmap }, offset);
        request.is_fast = is_fast;
        request.set_length(length);
        let finished = backend.submit(request).await;
        let is_too_fine = finished.request.is_too_fine;
        let result = take_result(backend, finished);
        if !is_too_fine {
            return result;
        }
        backend.order_partial_writes().await;
    }
}

pub(super) async fn discard(backend: &BlockBackend, offset: u64, length: u64) -> io::Result<()> {
    let range = check(backend, offset, length)?;
    loop {
        let inner = blocks_inside(&range, backend.node().block_size());
        if inner.is_empty() {
            return Ok(());
        }
        let mut request = backend.request(Op::Discard, inner.start);
        request.set_length(inner.end - inner.start);
        let finished = backend.submit(request).await;
        let is_too_fine = finished.request.is_too_fine;
        let result = take_result(backend, finished);
        if !is_too_fine {
            return result;
        }
    }
}

pub(super) async fn block_status(
    backend: &BlockBackend,
    offset: u64,
    length: u64,
) -> io::Result<BlockStatus> {
    let range = check(backend, offset, length)?;
    if range.is_empty() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    loop {
        let blocks = backend.blocks(&range);
        let mut request = backend.request(Op::BlockStatus, blocks.start);
        request.set_length(blocks.end - blocks.start);
        let finished = backend.submit(request).await;
        let status = finished.request.status();
        let is_too_fine = finished.request.is_too_fine;
        let result = take_result(backend, finished);
        if is_too_fine {
            continue;
        }
        result?;
        let known = status.length.saturating_sub(range.start - blocks.start);
        return Ok(BlockStatus {
            length: known.min(length),
            ..status
        });
    }
}

fn take_result(backend: &BlockBackend, finished: Finished) -> io::Result<()> {
    backend.recycle(finished.request);
    result_of(finished.result)
}

/// Reads or writes, with memory that the request has meanwhile. Says whether the channel refused it because of the node's blocks.
async fn transfer(
    backend: &BlockBackend,
    op: Op,
    offset: u64,
    memory: IoBuffer,
) -> (io::Result<()>, IoBuffer, bool) {
    let mut request = backend.request(op, offset);
    request.own(memory);
    let mut finished = backend.submit(request).await;
    let buffer = finished.request.take_buffer();
    let is_too_fine = finished.request.is_too_fine;
    let result = take_result(backend, finished);
    let buffer = buffer.unwrap_or_else(|| unreachable!("a request keeps its buffer"));
    (result, buffer, is_too_fine)
}

/// The range, if it is within the node.
fn check(backend: &BlockBackend, offset: u64, length: u64) -> io::Result<Range<u64>> {
    let end = offset.checked_add(length);
    match end.filter(|&end| end <= backend.node().length()) {
        Some(end) => Ok(offset..end),
        None => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

impl BlockBackend {
    /// The blocks around a range within the node.
    fn blocks(&self, range: &Range<u64>) -> Range<u64> {
        blocks_around(range, self.node().block_size())
    }
}

/// A place in memory.
fn index(place: u64) -> usize {
    usize::try_from(place).expect("an address has 64 bits")
}
