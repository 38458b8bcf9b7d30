//! Copies of clusters from a node to its target, by the ways of one queue.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use super::state::CopyState;
use crate::block::io_buffer::IoBuffer;
use crate::block::request::Op;
use crate::block::status::BlockStatus;
use crate::block::way::below::Below;

/// The most bytes in memory for one copy.
const COPY_MAX: u64 = 1 << 20;

/// A queue's ways to both nodes.
#[derive(Debug)]
pub(super) struct Copier {
    pub(super) state: Arc<CopyState>,
    pub(super) file: Arc<Below>,
    pub(super) target: Arc<Below>,
}

/// Why a copy failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CopyError {
    /// A negative errno.
    pub(super) result: i32,
    /// The target failed, and not the node.
    pub(super) is_of_target: bool,
}

/// Whether a copy asks first what is data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It looks at the data: what is to be written soon should not wait longer than it must.
    AtData,
    /// It asks the node, so that holes need not be read.
    AtStatus,
}

impl Copier {
    /// Copies all clusters that `range` touches and that were not copied before, with the range locked.
    pub(super) async fn copy(&self, range: &Range<u64>, look: Look) -> Result<(), CopyError> {
        let range = self.state.around(range);
        let mut ticket = self.state.ranges().ticket(range.clone());
        (&mut ticket).await;
        let mut at = range.start;
        while let Some(run) = self.state.next_needed(&(at..range.end)) {
            let piece = match look {
                Look::AtData if !self.state.skips_unallocated() => run,
                _ => self.next_piece(run).await?,
            };
            self.copy_data(&piece).await?;
            self.state.set_copied(&piece);
            at = piece.end;
        }
        Ok(())
    }

    /// Copies the next clusters of `run` as long as they are zeroes, and leaves out what need not be copied. Returns what follows.
    async fn next_piece(&self, run: Range<u64>) -> Result<Range<u64>, CopyError> {
        let mut run = run;
        loop {
            let status = status(&self.file, &run).await.map_err(CopyError::of_file)?;
            let len = status.length.min(run.end - run.start);
            let whole = match run.start + len == run.end {
                true => len,
                false => len / self.state.cluster_size() * self.state.cluster_size(),
            };
            if whole == 0 {
                let one = run.start + self.state.cluster_size();
                return Ok(run.start..one.min(run.end));
            }
            let piece = run.start..run.start + whole;
            if status.depth != 1 && self.state.skips_unallocated() {
                self.state.hide(&piece);
            } else if status.is_zero && self.zero(&piece).await.map_err(CopyError::of_target)? {
                self.state.set_copied(&piece);
            } else {
                return Ok(piece);
            }
            if piece.end == run.end {
                return Ok(run.end..run.end);
            }
            run.start = piece.end;
        }
    }

    async fn copy_data(&self, range: &Range<u64>) -> Result<(), CopyError> {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + COPY_MAX);
            let len = usize::try_from(end - at).map_err(|_| CopyError::of_file(-libc::EINVAL))?;
            let memory = IoBuffer::zeroed(len);
            let memory = transfer(&self.file, Op::Read, at, memory).await;
            let memory = memory.map_err(CopyError::of_file)?;
            let is_zero = memory.iter().all(|byte| *byte == 0);
            let is_done = match is_zero {
                true => self.zero(&(at..end)).await.map_err(CopyError::of_target)?,
                false => false,
            };
            if !is_done {
                let written = transfer(&self.target, Op::Write, at, memory).await;
                written.map_err(CopyError::of_target)?;
            }
            at = end;
        }
        Ok(())
    }

    /// Makes a range of the target zeroes. False if it cannot do that without writing them.
    async fn zero(&self, range: &Range<u64>) -> Result<bool, i32> {
        let mut request = self
            .target
            .request(Op::WriteZeroes { unmap: true }, range.start);
        request.set_length(range.end - range.start);
        let finished = self.target.submit(request).await;
        self.target.recycle(finished.request);
        match finished.result {
            0 => Ok(true),
            result if result == -libc::ENOTSUP => Ok(false),
            result => Err(result),
        }
    }
}

impl CopyError {
    fn of_file(result: i32) -> CopyError {
        CopyError {
            result,
            is_of_target: false,
        }
    }

    fn of_target(result: i32) -> CopyError {
        CopyError {
            result,
            is_of_target: true,
        }
    }
}

/// Reads or writes memory that the request owns meanwhile.
pub(super) async fn transfer(
    below: &Below,
    op: Op,
    offset: u64,
    memory: IoBuffer,
) -> Result<IoBuffer, i32> {
    let mut request = below.request(op, offset);
    request.own(memory);
    let mut finished = below.submit(request).await;
    let returned = finished.request.take_buffer();
    below.recycle(finished.request);
    match returned {
        Some(buffer) if finished.result == 0 => Ok(buffer),
        _ => Err(finished.result.min(-1)),
    }
}

/// What is known about the beginning of a range.
pub(super) async fn status(below: &Below, range: &Range<u64>) -> Result<BlockStatus, i32> {
    let mut request = below.request(Op::BlockStatus, range.start);
    request.set_length(range.end - range.start);
    let finished = below.submit(request).await;
    let status = finished.request.status();
    below.recycle(finished.request);
    match finished.result {
        0 => Ok(status),
        result => Err(result),
    }
}
