//! One request to a node, and how far it has come.
//!
//! Filled by devices, carried out by the [`Way`](super::way::Way) of a channel. A request moves by value, in its box,
//! from the device to the engine and back, so no other code can touch it while the kernel works on it.
//!
//! # Invariants
//! 1. Each segment is memory that stays valid until the request has come back finished or is dropped. The caller of
//!    [`Request::push_segment`] promises that.
//! 2. `segments[first..]` describe exactly the bytes not yet transferred.
//! 3. The memory may be a guest's, which changes it at any time. So it is reached through volatile slices only, and by
//!    the kernel.
#![allow(unsafe_code)] // segments are raw memory, usually a guest's

use std::mem;
use std::ops::ControlFlow;

use gsource::IoMemory;

use super::bounce::{Bounce, BounceStage};
use super::io_buffer::IoBuffer;
use super::status::BlockStatus;
use super::write_order::WriteTurn;

mod memory;
#[cfg(test)]
mod tests;

/// The unit of requests and lengths.
pub(super) const SECTOR: u64 = 512;

/// What to do with a range of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Reads into the segments.
    Read,
    /// Writes from the segments.
    Write,
    /// Makes everything that was acknowledged before durable.
    Flush,
    /// Gives the space of the range back, if the host can do that.
    Discard,
    /// Makes the range read as zeroes; with `unmap` it may become a hole.
    WriteZeroes {
        /// Whether the space may be given back.
        unmap: bool,
    },
    /// Says what the range is, or how it begins, without reading it; see [`Request::status`].
    BlockStatus,
    /// Copies the range to where the node copies: an image gets what its backing file has, a target what the node above it has. What
    /// is read stays the same.
    Populate,
}

/// The way in which the current attempt at a request is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// The direct way of its operation.
    Plain,
    /// Zeroes by `FALLOC_FL_ZERO_RANGE`.
    ZeroRange,
    /// Zeroes by writing them.
    WriteZeroes,
}

/// A finished request and 0 or the errno that ended it.
#[derive(Debug)]
pub struct Finished {
    /// The request; give it back with [`Channel::recycle`](super::Channel::recycle).
    pub request: Box<Request>,
    /// 0, or a negative errno.
    pub result: i32,
}

/// What became of a submitted request.
#[derive(Debug)]
pub enum Submission {
    /// It comes back from [`Channel::reap`](super::Channel::reap).
    Queued,
    /// It is finished already.
    Done(Finished),
}

/// Requests in their boxes, which they keep on the way through.
pub(super) type RequestBatch = Vec<Box<Request>>;

/// A request; see the head of this file.
#[derive(Debug)]
pub struct Request {
    pub(super) op: Op,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) done: u64,
    pub(super) method: Method,
    /// How often the kernel had no result for it, at that moment.
    pub(super) delays: u16,
    pub(super) bounce: Option<Bounce>,
    /// Its place in the order of writes, where there is one.
    pub(super) turn: Option<WriteTurn>,
    /// The channel has refused it, because it is not made of whole blocks of the node.
    pub(super) is_too_fine: bool,
    /// [`Op::WriteZeroes`] fails with ENOTSUP rather than write zeroes.
    pub(super) is_fast: bool,
    /// [`Op::Populate`] has failed at what it copies to, and not at what it copies from.
    pub(super) failed_at_target: bool,
    /// Memory that it owns. It is the only segment then.
    buffer: Option<IoBuffer>,
    status: BlockStatus,
    segments: Vec<libc::iovec>,
    first: usize,
    /// How many bytes of the first one have been transferred and are not in it any more.
    taken: usize,
    tag: u64,
}

// SAFETY: segments are ranges of memory that stays valid on every thread until the request ends (invariant 1).
unsafe impl Send for Request {}

impl Request {
    pub(super) fn new() -> Self {
        Request {
            op: Op::Flush,
            offset: 0,
            length: 0,
            done: 0,
            method: Method::Plain,
            delays: 0,
            bounce: None,
            turn: None,
            is_too_fine: false,
            is_fast: false,
            failed_at_target: false,
            buffer: None,
            status: BlockStatus::default(),
            segments: Vec::new(),
            first: 0,
            taken: 0,
            tag: 0,
        }
    }

    #[cold]
    pub(super) fn boxed() -> Box<Request> {
        Box::new(Request::new())
    }

    /// Makes it a fresh request; its buffers are kept for reuse.
    pub(super) fn reset(&mut self, op: Op, offset: u64, tag: u64) {
        self.op = op;
        self.offset = offset;
        self.length = 0;
        self.done = 0;
        self.method = Method::Plain;
        self.delays = 0;
        self.is_too_fine = false;
        self.is_fast = false;
        self.failed_at_target = false;
        self.buffer = None;
        self.status = BlockStatus::default();
        self.segments.clear();
        self.first = 0;
        self.taken = 0;
        self.tag = tag;
    }

    /// Makes a request that has come back what it was before it was submitted.
    pub(super) fn restart(&mut self) {
        match self.op {
            Op::Read | Op::Write => self.give_back_taken(),
            // What there is was lent by an attempt.
            _ => self.segments.clear(),
        }
        self.first = 0;
        self.taken = 0;
        self.done = 0;
        self.method = Method::Plain;
        self.delays = 0;
        self.is_too_fine = false;
        self.failed_at_target = false;
    }

    /// Makes the first of the segments that are left what it was.
    fn give_back_taken(&mut self) {
        let taken = mem::take(&mut self.taken);
        if let Some(segment) = self.segments.get_mut(self.first) {
            segment.iov_base = segment.iov_base.wrapping_byte_sub(taken);
            segment.iov_len += taken;
        }
    }

    /// What to do.
    pub fn op(&self) -> Op {
        self.op
    }

    /// Where in the node it begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes of the node it is about.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// How many bytes of it have been read or written, also if it failed after that.
    pub fn transferred(&self) -> u64 {
        self.done
    }

    /// What the submitter gave it to recognise it by.
    pub fn tag(&self) -> u64 {
        self.tag
    }

    /// Makes `tag` what the request is recognised by, and returns the tag before.
    pub(super) fn replace_tag(&mut self, tag: u64) -> u64 {
        mem::replace(&mut self.tag, tag)
    }

    /// Sets the length of an operation that has no segments.
    pub fn set_length(&mut self, length: u64) {
        self.length = length;
    }

    /// Appends memory to read into or to write from.
    ///
    /// # Safety
    /// The memory must stay valid until the request has come back finished or was dropped; for ever, if the channel is
    /// dropped before.
    pub unsafe fn push_segment(&mut self, start: *mut u8, len: usize) {
        self.length += len as u64;
        self.segments.push(libc::iovec {
            iov_base: start.cast(),
            iov_len: len,
        });
    }

    /// Makes `buffer` the memory to read into or to write from. It stays with the request.
    pub(super) fn own(&mut self, mut buffer: IoBuffer) {
        // SAFETY: the request has the buffer until it has come back and is asked for it.
        unsafe { self.push_segment(buffer.as_mut_ptr(), buffer.len()) };
        self.buffer = Some(buffer);
    }

    /// Gives the memory back that it owns.
    pub(super) fn take_buffer(&mut self) -> Option<IoBuffer> {
        let buffer = self.buffer.take();
        if buffer.is_some() {
            self.segments.clear();
        }
        buffer
    }

    /// The answer to [`Op::BlockStatus`].
    pub fn status(&self) -> BlockStatus {
        self.status
    }

    /// Answers [`Op::BlockStatus`].
    pub(super) fn set_status(&mut self, status: BlockStatus) {
        self.status = status;
    }

    /// Makes `memory` the request's only segment, for tests that keep it.
    #[cfg(test)]
    pub(super) fn set_memory(&mut self, memory: &mut [u8]) {
        // SAFETY: the tests keep the memory longer than the request.
        unsafe { self.push_segment(memory.as_mut_ptr(), memory.len()) };
    }

    /// Where the bytes not yet transferred are in the node.
    pub(super) fn position(&self) -> u64 {
        self.offset + self.done
    }

    /// The bytes not yet transferred.
    pub(super) fn remaining(&self) -> u64 {
        self.length - self.done
    }

    /// The memory not yet transferred.
    pub(super) fn memory(&self) -> IoMemory<'_> {
        // SAFETY: the segments are valid while the request is there (invariant 1), and no reference into them is used
        // (invariant 3).
        unsafe { IoMemory::new(&self.segments[self.first..]) }
    }

    /// Whether some memory of the request is not aligned to `align`, a power of two.
    pub(super) fn is_misaligned(&self, align: usize) -> bool {
        let mask = align - 1;
        self.segments
            .iter()
            .any(|segment| (segment.iov_base.addr() | segment.iov_len) & mask != 0)
    }

    /// Notes that `count` more bytes are done.
    pub(super) fn advance(&mut self, count: u64) {
        self.done += count.min(self.remaining());
        let mut left = usize::try_from(count).unwrap_or(usize::MAX);
        while let Some(segment) = self.segments.get_mut(self.first) {
            if left < segment.iov_len {
                segment.iov_base = segment.iov_base.wrapping_byte_add(left);
                segment.iov_len -= left;
                self.taken += left;
                return;
            }
            left -= segment.iov_len;
            if self.taken > 0 {
                self.give_back_taken();
            }
            self.first += 1;
        }
    }

    /// Notes that `count` more bytes were read. If there are none the file ends here, and the rest reads as zeroes. Breaks with
    /// the result at the end of the request.
    pub(super) fn has_read(&mut self, count: u64) -> ControlFlow<i32> {
        self.advance(count);
        if count == 0 {
            self.fill_rest_with_zeroes();
        }
        self.outcome()
    }

    /// Notes that `count` more bytes were written. Breaks with the result at the end of the request.
    pub(super) fn has_written(&mut self, count: u64) -> ControlFlow<i32> {
        if count == 0 {
            return ControlFlow::Break(-libc::EIO);
        }
        self.advance(count);
        self.outcome()
    }

    fn outcome(&self) -> ControlFlow<i32> {
        match self.remaining() {
            0 => ControlFlow::Break(0),
            _ => ControlFlow::Continue(()),
        }
    }

    /// Whether the rest of it goes through the page cache, although the image is open for direct I/O.
    pub(super) fn is_cached(&self) -> bool {
        let stage = self.bounce.as_ref().map(|bounce| bounce.stage);
        stage == Some(BounceStage::Cached)
    }
}
