//! Writes of parts of blocks, to a node that takes whole ones.
//!
//! Used for [block backends](super::BlockBackend), whose exports' clients write any bytes. Such a write is a *cycle*: read the blocks
//! at its ends, change them, write whole ones. Nothing else may write to these blocks between the two, from whichever queue, export
//! or job. So the cycle is done in the node's part of the way, where all writes pass, in a layer that has an order of writes
//! ([`super::write_order`]).
//!
//! A node has the layer only while someone writes parts of blocks; otherwise it costs the queues nothing. A channel refuses such a
//! write if its way has no layer ([`Request::is_too_fine`](super::request::Request)). The backend then makes itself a
//! [`PartialWriter`] of the node and submits the write again. When the last writer is gone, the queues open their ways without it.
//!
//! A node that hands requests on as they are, such as `raw` or `throttle`, leaves the cycles to the node below.
//!
//! # Invariants
//! 1. While `is_ordered` is set, every way through the node has the layer: it is set under a drain of the node, and ways that are
//!    opened later look at it.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::drain::{drain, reopen_ways};
use super::gate::Gate;
use super::io_buffer::IoBuffer;
use super::node::Node;
use super::request::{Finished, Op, Request};
use super::way::Way;
use super::way::below::Below;
use super::way::task::{Layer, Task, TaskWay};
use super::write_order::WriteOrder;

#[cfg(test)]
mod tests;

/// What a node knows of the writes of parts of its blocks.
#[derive(Debug, Default)]
pub(super) struct PartialWrites {
    order: Arc<WriteOrder>,
    state: Mutex<PartialWritesState>,
}

#[derive(Debug, Default)]
struct PartialWritesState {
    writers: usize,
    /// See invariant 1.
    is_ordered: bool,
}

impl PartialWrites {
    /// The way of a queue to blocks of `unit` bytes, with the layer if someone writes parts of them. `open` opens the way without.
    pub(super) fn open_way(
        &self,
        unit: u64,
        gate: &Arc<Gate>,
        open: impl FnOnce(&Arc<Gate>) -> Way,
    ) -> Way {
        if !self.state().is_ordered {
            return open(gate);
        }
        TaskWay::open(gate, |new| {
            Arc::new(PartialWriteLayer {
                unit,
                order: Arc::clone(&self.order),
                below: new.open(open),
            })
        })
    }

    /// Whether queues have the layer.
    #[cfg(test)]
    fn is_ordered(&self) -> bool {
        self.state().is_ordered
    }

    /// The state is consistent after every single operation on it.
    fn state(&self) -> MutexGuard<'_, PartialWritesState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Someone who writes parts of blocks of a node, until this is dropped.
#[derive(Debug)]
pub(super) struct PartialWriter(Arc<Node>);

impl PartialWriter {
    /// Makes the caller a writer of `node`. [`PartialWriter::begin`] comes next.
    pub(super) fn new(node: &Arc<Node>) -> PartialWriter {
        node.partial_writes().state().writers += 1;
        PartialWriter(Arc::clone(node))
    }

    pub(super) fn node(&self) -> &Arc<Node> {
        &self.0
    }

    /// Lets all queues open their ways through `node`, which has a writer, with the layer.
    pub(super) async fn begin(node: &Arc<Node>) {
        let drained = drain([node]).await;
        let mut state = node.partial_writes().state();
        // The writer may have ended meanwhile.
        state.is_ordered = state.writers > 0;
        drop(state);
        drop(drained);
    }
}

impl Drop for PartialWriter {
    fn drop(&mut self) {
        let mut state = self.0.partial_writes().state();
        state.writers -= 1;
        let was_ordered = state.is_ordered;
        state.is_ordered &= state.writers > 0;
        let is_over = was_ordered && !state.is_ordered;
        drop(state);
        if is_over {
            reopen_ways(&self.0);
        }
    }
}

/// One queue's part of a node that orders its writes.
#[derive(Debug)]
struct PartialWriteLayer {
    /// The size of the node's blocks.
    unit: u64,
    order: Arc<WriteOrder>,
    below: Arc<Below>,
}

impl Layer for PartialWriteLayer {
    fn run(self: Arc<Self>, request: Box<Request>) -> Task {
        Box::pin(async move { self.carry_out(request).await })
    }

    fn takes_parts(&self) -> bool {
        true
    }
}

impl PartialWriteLayer {
    async fn carry_out(&self, mut request: Box<Request>) -> Finished {
        let range = request.offset()..request.offset().saturating_add(request.length());
        let is_whole = blocks_around(&range, self.unit) == range;
        let result = match request.op() {
            // What is read stays the same.
            Op::Read | Op::Flush | Op::BlockStatus | Op::Populate => {
                return self.below.submit(request).await;
            }
            Op::Write | Op::WriteZeroes { .. } if !is_whole => {
                self.write_parts(&mut request, &range).await
            }
            Op::Write | Op::WriteZeroes { .. } | Op::Discard => {
                return self.write_whole(range, request).await;
            }
        };
        if result.is_ok() {
            request.advance(request.length());
        }
        let result = result.err().unwrap_or(0);
        Finished { request, result }
    }

    /// Hands on a request that changes whole blocks.
    async fn write_whole(&self, blocks: Range<u64>, request: Box<Request>) -> Finished {
        let mut turn = self.order.aligned(blocks);
        (&mut turn).await;
        self.below.submit(request).await
    }

    async fn write_parts(&self, request: &mut Request, range: &Range<u64>) -> Result<(), i32> {
        let Op::WriteZeroes { unmap } = request.op() else {
            return self.change(request, range).await;
        };
        let inner = blocks_inside(range, self.unit);
        for edge in [range.start..inner.start, inner.end..range.end] {
            if !edge.is_empty() {
                self.change(request, &edge).await?;
            }
        }
        if inner.is_empty() {
            return Ok(());
        }
        let mut zeroes = self.below.request(Op::WriteZeroes { unmap }, inner.start);
        zeroes.is_fast = request.is_fast;
        zeroes.set_length(inner.end - inner.start);
        let finished = self.write_whole(inner, zeroes).await;
        self.below.recycle(finished.request);
        check(finished.result)
    }

    /// Writes a range of the request: reads the blocks at the ends, changes them, and writes all.
    async fn change(&self, request: &mut Request, range: &Range<u64>) -> Result<(), i32> {
        let blocks = blocks_around(range, self.unit);
        let mut turn = self.order.cycle(blocks.clone());
        (&mut turn).await;
        let mut whole = IoBuffer::zeroed(index(blocks.end - blocks.start));
        let last = blocks.end - self.unit;
        let is_partial = |start: u64| range.start > start || range.end < start + self.unit;
        if is_partial(blocks.start) {
            self.read_block(blocks.start, &mut whole).await?;
        }
        if last > blocks.start && is_partial(last) {
            let place = whole.len() - index(self.unit);
            self.read_block(last, &mut whole[place..]).await?;
        }
        let place = index(range.start - blocks.start);
        let len = index(range.end - range.start);
        let skip = index(range.start - request.offset());
        request.copy_out_from(skip, &mut whole[place..place + len]);
        self.transfer(Op::Write, blocks.start, whole).await?;
        Ok(())
    }

    /// Reads a block to the beginning of `memory`.
    async fn read_block(&self, offset: u64, memory: &mut [u8]) -> Result<(), i32> {
        let block = IoBuffer::zeroed(index(self.unit));
        let block = self.transfer(Op::Read, offset, block).await?;
        memory[..block.len()].copy_from_slice(&block);
        Ok(())
    }

    /// Reads or writes whole blocks, with memory that the request has meanwhile.
    async fn transfer(&self, op: Op, offset: u64, memory: IoBuffer) -> Result<IoBuffer, i32> {
        let mut request = self.below.request(op, offset);
        request.own(memory);
        let mut finished = self.below.submit(request).await;
        let returned = finished.request.take_buffer();
        self.below.recycle(finished.request);
        check(finished.result)?;
        Ok(returned.unwrap_or_else(|| unreachable!("a request keeps its buffer")))
    }
}

/// 0 or a negative errno.
fn check(result: i32) -> Result<(), i32> {
    match result {
        0 => Ok(()),
        result => Err(result),
    }
}

/// The blocks around a range.
pub(super) fn blocks_around(range: &Range<u64>, unit: u64) -> Range<u64> {
    range.start / unit * unit..range.end.next_multiple_of(unit)
}

/// The whole blocks of a range. If it has none, they are empty at one of its ends.
pub(super) fn blocks_inside(range: &Range<u64>, unit: u64) -> Range<u64> {
    let start = range.start.next_multiple_of(unit);
    let end = range.end / unit * unit;
    match start <= end {
        true => start..end,
        // All of it lies within one block.
        false => range.end..range.end,
    }
}

/// A place in memory.
fn index(place: u64) -> usize {
    usize::try_from(place).expect("an address has 64 bits")
}
