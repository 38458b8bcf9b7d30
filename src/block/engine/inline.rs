//! Inline I/O: what the page cache can answer is answered before anything is queued.
//!
//! Used by [`super::Channel`]. Page-cache mode only. On tmpfs plain preadv2 and pwritev2 never wait for a device;
//! elsewhere reads carry RWF_NOWAIT, and what that leaves over goes to the engine. Requests are limited in size, and
//! a batch in its sum, so that copying for one disk does not keep its neighbours waiting.
#![allow(unsafe_code)] // preadv2 and pwritev2

use std::ops::ControlFlow;
use std::os::fd::AsRawFd;

use super::super::file::ImageFile;
use super::super::node::Backend;
use super::super::request::{Op, Request};
use super::step::{Step, next_step, take_result};

/// The longest request that is tried inline.
const REQUEST_MAX: u64 = 64 * 1024;

/// How many bytes a batch may move inline.
const BATCH_MAX: u64 = 256 * 1024;

/// Where inline I/O can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Never,
    /// Reads and writes, plain.
    InMemory,
    /// Reads with RWF_NOWAIT.
    Nowait,
}

/// A channel's inline budget.
#[derive(Debug)]
pub(super) struct Inline {
    mode: Mode,
    left: u64,
}

impl Inline {
    pub(super) fn new(backend: &Backend) -> Self {
        let mode = match backend {
            Backend::File(file) if file.alignment.is_some() => Mode::Never,
            Backend::File(file) if file.in_memory => Mode::InMemory,
            Backend::File(_) => Mode::Nowait,
            Backend::Null(_) => Mode::Never,
        };
        Inline {
            mode,
            left: BATCH_MAX,
        }
    }

    /// Begins a batch.
    pub(super) fn refill(&mut self) {
        self.left = BATCH_MAX;
    }

    /// Whether the batch has moved its bytes.
    pub(super) fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Counts `bytes` that were moved on the home thread.
    pub(super) fn charge(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
    }

    /// The request's result if it could be carried out at once. What was moved of an unfinished one stays moved.
    pub(super) fn try_run(&mut self, file: &ImageFile, request: &mut Request) -> Option<i32> {
        let flags = self.flags(file, request.op)?;
        if request.length > REQUEST_MAX || self.is_spent() {
            return None;
        }
        self.charge(request.length);
        let result = match next_step(file, request) {
            Step::Read(vectors, offset) => call(file, libc::preadv2, vectors, offset, flags),
            Step::Write(vectors, offset) => call(file, libc::pwritev2, vectors, offset, flags),
            _ => return None,
        };
        match -result {
            libc::EAGAIN | libc::EINTR => None,
            libc::EOPNOTSUPP => {
                file.nowait.is_missing();
                None
            }
            _ => match take_result(file, request, result) {
                ControlFlow::Break(result) => Some(result),
                ControlFlow::Continue(()) => None,
            },
        }
    }

    /// The flags for an inline attempt, if there is to be one.
    fn flags(&self, file: &ImageFile, op: Op) -> Option<i32> {
        match (self.mode, op) {
            (Mode::InMemory, Op::Read | Op::Write) => Some(0),
            (Mode::Nowait, Op::Read) if file.nowait.is_there() => Some(libc::RWF_NOWAIT),
            _ => None,
        }
    }
}

type Transfer = unsafe extern "C" fn(i32, *const libc::iovec, i32, i64, i32) -> isize;

fn call(
    file: &ImageFile,
    transfer: Transfer,
    vectors: &[libc::iovec],
    offset: u64,
    flags: i32,
) -> i32 {
    let count = i32::try_from(vectors.len()).unwrap_or(i32::MAX);
    // SAFETY: the vectors come from a request, whose memory is valid (its invariant 1).
    let moved = unsafe {
        transfer(
            file.as_raw_fd(),
            vectors.as_ptr(),
            count,
            offset.cast_signed(),
            flags,
        )
    };
    super::threads::count_or_errno(moved)
}
