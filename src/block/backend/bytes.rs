//! Requests that need not be made of whole blocks.
//!
//! A read goes through a copy of the blocks around it. A write reads the blocks at its ends, changes them, and writes whole
//! blocks; no other write of a backend of the same node may come between, so all take their turn in the node's order. Without
//! such writes that costs two additions.
#![forbid(unsafe_code)]

use std::io;
use std::ops::Range;

use super::{BlockBackend, result_of};
use crate::block::io_buffer::IoBuffer;
use crate::block::request::Op;
use crate::block::status::BlockStatus;
use crate::block::write_order::WriteTurn;

pub(super) async fn read(
    backend: &BlockBackend,
    offset: u64,
    mut buffer: IoBuffer,
) -> (io::Result<()>, IoBuffer) {
    let range = match check(backend, offset, buffer.len() as u64) {
        Ok(range) => range,
        Err(error) => return (Err(error), buffer),
    };
    let blocks = backend.blocks(&range);
    if blocks == range {
        return transfer(backend, Op::Read, offset, buffer, None).await;
    }
    let copy = IoBuffer::zeroed(len(&blocks));
    let (result, copy) = transfer(backend, Op::Read, blocks.start, copy, None).await;
    let skip = index(range.start - blocks.start);
    let count = buffer.len();
    buffer.copy_from_slice(&copy[skip..skip + count]);
    (result, buffer)
}

pub(super) async fn write(
    backend: &BlockBackend,
    offset: u64,
    buffer: IoBuffer,
) -> (io::Result<()>, IoBuffer) {
    let range = match check(backend, offset, buffer.len() as u64) {
        Ok(range) => range,
        Err(error) => return (Err(error), buffer),
    };
    if backend.blocks(&range) == range {
        let mut turn = backend.node().byte_order().aligned(range.clone());
        (&mut turn).await;
        // The node may have larger blocks now.
        if backend.blocks(&range) == range {
            return transfer(backend, Op::Write, offset, buffer, Some(turn)).await;
        }
    }
    let result = change(backend, &range, |bytes| bytes.copy_from_slice(&buffer));
    (result.await, buffer)
}

pub(super) async fn write_zeroes(
    backend: &BlockBackend,
    offset: u64,
    length: u64,
    unmap: bool,
    is_fast: bool,
) -> io::Result<()> {
    let range = check(backend, offset, length)?;
    let inner = backend.blocks_inside(&range);
    for edge in [range.start..inner.start, inner.end..range.end] {
        if !edge.is_empty() {
            change(backend, &edge, |bytes| bytes.fill(0)).await?;
        }
    }
    if inner.is_empty() {
        return Ok(());
    }
    let mut turn = backend.node().byte_order().aligned(inner.clone());
    (&mut turn).await;
    let mut request = backend.request(Op::WriteZeroes { unmap }, inner.start);
    request.is_fast = is_fast;
    request.set_length(inner.end - inner.start);
    request.byte_turn = Some(turn);
    backend.finish(request).await
}

pub(super) async fn discard(backend: &BlockBackend, offset: u64, length: u64) -> io::Result<()> {
    let range = check(backend, offset, length)?;
    let inner = backend.blocks_inside(&range);
    if inner.is_empty() {
        return Ok(());
    }
    let mut turn = backend.node().byte_order().aligned(inner.clone());
    (&mut turn).await;
    let mut request = backend.request(Op::Discard, inner.start);
    request.set_length(inner.end - inner.start);
    request.byte_turn = Some(turn);
    backend.finish(request).await
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
    let blocks = backend.blocks(&range);
    let mut request = backend.request(Op::BlockStatus, blocks.start);
    request.set_length(blocks.end - blocks.start);
    let finished = backend.submit(request).await;
    let status = finished.request.status();
    backend.recycle(finished.request);
    result_of(finished.result)?;
    let known = status.length.saturating_sub(range.start - blocks.start);
    Ok(BlockStatus {
        length: known.min(length),
        ..status
    })
}

/// Waits for the turn of a cycle over the blocks around `range`, as they are then, and returns them and their unit.
async fn cycle(backend: &BlockBackend, range: &Range<u64>) -> (WriteTurn, Range<u64>, u64) {
    loop {
        let node = backend.node();
        let unit = node.block_size();
        let blocks = blocks_around(range, unit);
        let mut turn = node.byte_order().cycle(blocks.clone());
        (&mut turn).await;
        // A drain may have changed the node meanwhile.
        let now = backend.node();
        if now.id() == node.id() && now.block_size() == unit {
            return (turn, blocks, unit);
        }
    }
}

/// Changes `range`: reads the blocks at the ends, changes them, and writes all.
async fn change(
    backend: &BlockBackend,
    range: &Range<u64>,
    fill: impl FnOnce(&mut [u8]),
) -> io::Result<()> {
    let (turn, blocks, unit) = cycle(backend, range).await;
    let mut whole = IoBuffer::zeroed(len(&blocks));
    let last = blocks.end - unit;
    let is_partial = |start: u64| range.start > start || range.end < start + unit;
    let ends = [
        Some(blocks.start),
        Some(last).filter(|&last| last > blocks.start),
    ];
    for start in ends
        .into_iter()
        .flatten()
        .filter(|&start| is_partial(start))
    {
        let block = IoBuffer::zeroed(index(unit));
        let (result, block) = transfer(backend, Op::Read, start, block, None).await;
        result?;
        let at = index(start - blocks.start);
        whole[at..at + block.len()].copy_from_slice(&block);
    }
    let start = index(range.start - blocks.start);
    fill(&mut whole[start..start + len(range)]);
    let written = transfer(backend, Op::Write, blocks.start, whole, Some(turn));
    written.await.0
}

/// Reads or writes whole blocks, with memory that the request owns.
async fn transfer(
    backend: &BlockBackend,
    op: Op,
    offset: u64,
    memory: IoBuffer,
    turn: Option<WriteTurn>,
) -> (io::Result<()>, IoBuffer) {
    let mut request = backend.request(op, offset);
    request.own(memory);
    request.byte_turn = turn;
    let mut finished = backend.submit(request).await;
    let buffer = finished.request.take_buffer();
    backend.recycle(finished.request);
    let buffer = buffer.unwrap_or_else(|| unreachable!("a request keeps its buffer"));
    (result_of(finished.result), buffer)
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

    /// The whole blocks of a range. If it has none, they are empty at one of its ends.
    fn blocks_inside(&self, range: &Range<u64>) -> Range<u64> {
        let unit = self.node().block_size();
        let start = range.start.next_multiple_of(unit);
        let end = range.end / unit * unit;
        match start <= end {
            true => start..end,
            // All of it lies within one block.
            false => range.end..range.end,
        }
    }
}

fn blocks_around(range: &Range<u64>, unit: u64) -> Range<u64> {
    range.start / unit * unit..range.end.next_multiple_of(unit)
}

fn len(range: &Range<u64>) -> usize {
    index(range.end - range.start)
}

/// A place in memory.
fn index(place: u64) -> usize {
    usize::try_from(place).expect("an address has 64 bits")
}
