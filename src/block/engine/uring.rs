//! The io_uring engine: requests go into the ring of the home that drives the AioContext.
//!
//! Used by [`super::Channel`]. The ring is entered by the home once per iteration; here entries are only pushed.
//!
//! # Invariants
//! 1. `slots[user]` owns the request whose entry carries `user`, until that entry's completion arrived. So all memory
//!    that an entry names, vectors included, stays in place.
#![allow(unsafe_code)] // pushing entries promises the kernel valid memory

use std::ops::ControlFlow;
use std::os::fd::AsRawFd;

use gsource::{IoCompletion, IoQueue};
use io_uring::squeue::Entry;
use io_uring::{IoUring, opcode, types};

use super::super::file::ImageFile;
use super::super::request::Request;
use super::Finished;
use super::step::{Step, next_step, take_result};
use crate::ErrorKind;

/// A channel's part of the home's ring.
#[derive(Debug)]
pub(super) struct Uring {
    queue: IoQueue,
    slots: Vec<Option<Box<Request>>>,
    free: Vec<usize>,
}

/// Whether this kernel lets us have rings at all.
pub(in crate::block) fn is_available() -> bool {
    IoUring::new(2).is_ok()
}

impl Uring {
    pub(super) fn new(queue: IoQueue) -> Self {
        Uring {
            queue,
            slots: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Pushes the request's first entry; gives the request back if it is finished without.
    pub(super) fn start(&mut self, file: &ImageFile, request: Box<Request>) -> Option<Finished> {
        let user = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[user] = Some(request);
        self.push(file, user)
    }

    /// Takes in completions: finishes requests or pushes their next entries.
    pub(super) fn reap(
        &mut self,
        file: &ImageFile,
        completions: &[IoCompletion],
        finished: &mut Vec<Finished>,
    ) {
        for completion in completions {
            let user = usize::try_from(completion.user).unwrap_or(usize::MAX);
            let Some(Some(request)) = self.slots.get_mut(user) else {
                continue;
            };
            let done = match take_result(file, request, completion.result) {
                ControlFlow::Break(result) => self.finish(user, result),
                ControlFlow::Continue(()) => self.push(file, user),
            };
            finished.extend(done);
        }
    }

    fn finish(&mut self, user: usize, result: i32) -> Option<Finished> {
        let request = self.slots[user].take()?;
        self.free.push(user);
        Some(Finished { request, result })
    }

    /// The ring is full although the kernel was asked to empty it: better slow than failed.
    fn run_here(&mut self, file: &ImageFile, user: usize) -> Option<Finished> {
        let request = self.slots[user].take()?;
        self.free.push(user);
        Some(super::threads::run(file, request))
    }

    fn push(&mut self, file: &ImageFile, user: usize) -> Option<Finished> {
        let Some(entry) = entry(file, self.slots[user].as_mut()?) else {
            return self.finish(user, 0);
        };
        // SAFETY: the request owns all memory that the entry names, and stays in its slot (invariant 1).
        match unsafe { self.queue.push(user as u64, entry) } {
            Ok(()) => None,
            Err(error) if error.kind() == ErrorKind::LimitExceeded => self.run_here(file, user),
            Err(error) => self.finish(user, -error.errno()),
        }
    }
}

/// The next step as an entry; `None` if nothing is left to do.
fn entry(file: &ImageFile, request: &mut Request) -> Option<Entry> {
    let fd = types::Fd(file.as_raw_fd());
    let entry = match next_step(file, request) {
        Step::Read([one], offset) if one.iov_len <= MAX_LEN => {
            let len = u32::try_from(one.iov_len).unwrap_or(0);
            opcode::Read::new(fd, one.iov_base.cast(), len)
                .offset(offset)
                .build()
        }
        Step::Write([one], offset) if one.iov_len <= MAX_LEN => {
            let len = u32::try_from(one.iov_len).unwrap_or(0);
            opcode::Write::new(fd, one.iov_base.cast_const().cast(), len)
                .offset(offset)
                .build()
        }
        Step::Read(vectors, offset) => opcode::Readv::new(fd, vectors.as_ptr(), count(vectors))
            .offset(offset)
            .build(),
        Step::Write(vectors, offset) => opcode::Writev::new(fd, vectors.as_ptr(), count(vectors))
            .offset(offset)
            .build(),
        Step::DataSync => opcode::Fsync::new(fd)
            .flags(types::FsyncFlags::DATASYNC)
            .build(),
        Step::Allocate {
            mode,
            offset,
            length,
        } => opcode::Fallocate::new(fd, length)
            .offset(offset)
            .mode(mode)
            .build(),
        Step::Nothing => return None,
    };
    Some(entry)
}

/// What the kernel moves at most in one call.
const MAX_LEN: usize = 0x7fff_f000;

fn count(vectors: &[libc::iovec]) -> u32 {
    u32::try_from(vectors.len()).unwrap_or(u32::MAX)
}
