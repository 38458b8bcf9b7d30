//! What is in the file: reads, writes, its length, its holes. The rules are QEMU's.
//!
//! # Threads
//! The futures are polled on the home of the export's AioContext. To ask the node's file may wait and runs in the pool. To change
//! its length waits for requests, and has a thread of its own.
#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::io;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use fuse_abi::linux::fuse_fallocate_in;
use libc::{EACCES, EFBIG, EINVAL, EIO, ENOSPC, ENXIO, EOPNOTSUPP};

use super::attributes::FileSizes;
use super::message::TRANSFER_MAX;
use crate::Error;
use crate::block::{BlockBackend, IoBuffer, Node};

/// The longest range that one request makes zero.
const ZEROES_MAX: u64 = 1 << 30;

/// What programs should read and write at once, at least.
const PAGE: u64 = 4096;

const KEEP_SIZE: u32 = libc::FALLOC_FL_KEEP_SIZE.cast_unsigned();
const PUNCH_HOLE: u32 = libc::FALLOC_FL_PUNCH_HOLE.cast_unsigned();
const ZERO_RANGE: u32 = libc::FALLOC_FL_ZERO_RANGE.cast_unsigned();
const SEEK_DATA: u32 = libc::SEEK_DATA.cast_unsigned();
const SEEK_HOLE: u32 = libc::SEEK_HOLE.cast_unsigned();

/// The node as the content of a file. Errors are positive errnos.
#[derive(Debug)]
pub(super) struct FuseContent {
    backend: BlockBackend,
    is_writable: bool,
    /// Writes beyond the end make it longer.
    is_growable: bool,
    /// One change of the length at a time: a write that makes the node longer must not cut off what another one has added.
    resizes: ResizeTurns,
    /// Long requests end early.
    is_hurried: AtomicBool,
}

impl FuseContent {
    pub(super) fn new(backend: BlockBackend, is_writable: bool, is_growable: bool) -> FuseContent {
        FuseContent {
            backend,
            is_writable,
            is_growable,
            resizes: ResizeTurns::default(),
            is_hurried: AtomicBool::new(false),
        }
    }

    fn node(&self) -> Arc<Node> {
        self.backend.node()
    }

    /// The sizes that `stat` shows.
    pub(super) async fn sizes(&self) -> FileSizes {
        let node = self.node();
        let allocated = self
            .backend
            .aio()
            .run_in_pool(move || node.allocated())
            .await;
        FileSizes {
            length: self.node().length(),
            allocated: allocated.ok().flatten(),
            block_size: self.node().block_size().max(PAGE),
        }
    }

    /// Reads up to `size` bytes: fewer at the end.
    pub(super) async fn read(
        &self,
        offset: u64,
        size: u32,
        mut buffer: IoBuffer,
    ) -> (Result<(), i32>, IoBuffer) {
        let left = self.node().length().saturating_sub(offset);
        // The kernel asks for no more than was agreed upon.
        let count = left.min(size.into()).min(TRANSFER_MAX as u64);
        buffer.set_len(usize::try_from(count).unwrap_or(0));
        if count == 0 {
            return (Ok(()), buffer);
        }
        let (result, buffer) = self.backend.read(offset, buffer).await;
        (result.map_err(errno), buffer)
    }

    /// Writes what is in the buffer: less at the end, unless the file may grow. Returns how much.
    pub(super) async fn write(
        &self,
        offset: u64,
        mut buffer: IoBuffer,
    ) -> (Result<u32, i32>, IoBuffer) {
        let count = match self.room(offset, buffer.len() as u64).await {
            Ok(count) => count,
            Err(errno) => return (Err(errno), buffer),
        };
        buffer.set_len(usize::try_from(count).unwrap_or(0));
        if count == 0 {
            return (Ok(0), buffer);
        }
        let (result, buffer) = self.backend.write(offset, buffer, false).await;
        let written = u32::try_from(count).unwrap_or(0);
        (result.map(|()| written).map_err(errno), buffer)
    }

    /// How much of a write has room, after the file has grown if it may.
    async fn room(&self, offset: u64, size: u64) -> Result<u64, i32> {
        if !self.is_writable {
            return Err(EACCES);
        }
        let end = offset.checked_add(size).ok_or(EFBIG)?;
        if end > self.node().length() && self.is_growable {
            self.grow(end).await?;
        }
        match self.node().length().saturating_sub(offset).min(size) {
            0 if size > 0 => Err(ENOSPC),
            room => Ok(room),
        }
    }

    /// The end is near: requests do not wait for a throttle group any more, for example, and those of many parts end early.
    pub(super) fn hurry(&self) {
        self.is_hurried.store(true, Ordering::Relaxed);
        self.backend.hurry();
    }

    /// Makes what was written durable.
    pub(super) async fn flush(&self) -> Result<(), i32> {
        self.backend.flush().await.map_err(errno)
    }

    /// Gives the file this length.
    pub(super) async fn resize(&self, length: u64) -> Result<(), i32> {
        let _turn = self.resizes.turn().await;
        self.set_length(length).await
    }

    /// Makes the file at least so long.
    async fn grow(&self, length: u64) -> Result<(), i32> {
        let _turn = self.resizes.turn().await;
        match self.node().length() >= length {
            true => Ok(()),
            false => self.set_length(length).await,
        }
    }

    /// A length between two blocks is rounded up, as the length of an image is.
    async fn set_length(&self, length: u64) -> Result<(), i32> {
        let length = length.checked_next_multiple_of(self.node().block_size());
        let length = length
            .filter(|&length| i64::try_from(length).is_ok())
            .ok_or(EFBIG)?;
        let resized = self.node().resize(length).await;
        resized.map_err(|error: Error| match error.errno() {
            0 => EIO,
            errno => errno.abs(),
        })
    }

    /// `fallocate`.
    pub(super) async fn allocate(&self, wanted: fuse_fallocate_in) -> Result<(), i32> {
        let fuse_fallocate_in {
            offset,
            length,
            mode,
            ..
        } = wanted;
        if !self.is_writable {
            return Err(EACCES);
        }
        let end = offset.checked_add(length).ok_or(EFBIG)?;
        let before = self.node().length();
        let kept_end = end.min(before);
        if mode == 0 {
            // Only what is new can be allocated.
            if offset < before {
                return Err(EOPNOTSUPP);
            }
            self.grow(end).await?;
            self.zero(offset, end, false).await
        } else if mode & PUNCH_HOLE != 0 {
            match mode & KEEP_SIZE {
                0 => Err(EINVAL),
                _ => self.zero(offset, kept_end, true).await,
            }
        } else if mode & ZERO_RANGE != 0 {
            if mode & KEEP_SIZE != 0 {
                return self.zero(offset, kept_end, false).await;
            }
            self.grow(end).await?;
            self.zero(offset, end, false).await
        } else {
            Err(EOPNOTSUPP)
        }
    }

    /// Makes a range zero, which is a hole then if that is possible and `unmap` is set.
    async fn zero(&self, start: u64, end: u64, unmap: bool) -> Result<(), i32> {
        let mut at = start;
        while at < end {
            self.check_time()?;
            let length = (end - at).min(ZEROES_MAX);
            let zeroed = self.backend.write_zeroes(at, length, unmap, false).await;
            zeroed.map_err(errno)?;
            at += length;
        }
        Ok(())
    }

    /// Ends a request of many parts when the end is near.
    fn check_time(&self) -> Result<(), i32> {
        match self.is_hurried.load(Ordering::Relaxed) {
            true => Err(EIO),
            false => Ok(()),
        }
    }

    /// Where the next data or the next hole is. There is a hole at the end of the file.
    pub(super) async fn seek(&self, offset: u64, whence: u32) -> Result<u64, i32> {
        if whence != SEEK_DATA && whence != SEEK_HOLE {
            return Err(EINVAL);
        }
        let mut at = offset;
        loop {
            self.check_time()?;
            let length = self.node().length();
            if at >= length {
                return match at == length && whence == SEEK_HOLE {
                    true => Ok(at),
                    false => Err(ENXIO),
                };
            }
            let status = self
                .backend
                .block_status(at, length - at)
                .await
                .map_err(errno)?;
            if status.has_data == (whence == SEEK_DATA) {
                return Ok(at);
            }
            at = at.checked_add(status.length.max(1)).ok_or(ENXIO)?;
        }
    }
}

fn errno(error: io::Error) -> i32 {
    error.raw_os_error().unwrap_or(EIO)
}

/// Lets one task at a time go on.
#[derive(Debug, Default)]
struct ResizeTurns(Mutex<ResizeState>);

#[derive(Debug, Default)]
struct ResizeState {
    is_taken: bool,
    waiting: Vec<Waker>,
}

/// The next task goes on when this is dropped.
#[derive(Debug)]
struct ResizeTurn<'a>(&'a ResizeTurns);

impl ResizeTurns {
    async fn turn(&self) -> ResizeTurn<'_> {
        poll_fn(|context| {
            let mut state = self.state();
            let is_taken = mem::replace(&mut state.is_taken, true);
            if is_taken {
                state.waiting.push(context.waker().clone());
            }
            drop(state);
            match is_taken {
                true => Poll::Pending,
                false => Poll::Ready(ResizeTurn(self)),
            }
        })
        .await
    }

    /// The state is consistent after every single operation on it.
    fn state(&self) -> MutexGuard<'_, ResizeState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ResizeTurn<'_> {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.0.state();
            state.is_taken = false;
            mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}
