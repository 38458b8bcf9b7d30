//! The io_uring engine: requests go into the ring of the home that drives the AioContext.
//!
//! Used by [`super::FileWay`]. The ring is entered by the home once per iteration; here entries are only pushed.
//!
//! # Threads
//! All belongs to the home. The list of completions has a lock because the ring fills it while the channel is not locked.
//!
//! # Invariants
//! 1. [`Slots`] own the request whose entry carries the number of its slot, and the file, until that entry's completion
//!    has arrived. So all memory that an entry names, vectors included, stays in place, and the fd stays open. Slots that go
//!    away earlier leave them allocated and open for ever.
#![allow(unsafe_code)] // pushing entries promises the kernel valid memory

use std::mem;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use gsource::{IoBatch, IoCompletion, IoQueue, IoSink};
use io_uring::squeue::Entry;
use io_uring::{IoUring, opcode, types};

use super::super::WayQueue;
use super::image::Image;
use super::step::{Step, next_step, take_result};
use super::threads::lock;
use crate::block::channel::{Finished, Gate, RequestBatch};
use crate::block::request::{Memory, Request};
use crate::{ErrorKind, Result};

/// A channel's part of the home's ring.
#[derive(Debug)]
pub(super) struct Uring {
    queue: IoQueue,
    arrived: Arc<Arrived>,
    /// Swapped with the list of arrived completions, so that both keep their memory.
    spare: Vec<IoCompletion>,
    slots: Slots,
}

/// The requests that the kernel has, and the file that they are for.
#[derive(Debug)]
struct Slots {
    image: Arc<Image>,
    requests: Vec<Option<Box<Request>>>,
    free: Vec<usize>,
}

/// Completions on their way from the ring to the channel.
struct Arrived {
    completions: Mutex<Vec<IoCompletion>>,
    gate: Arc<Gate>,
}

impl IoSink for Arrived {
    fn complete(&self, completions: &[IoCompletion]) {
        lock(&self.completions).extend_from_slice(completions);
        self.gate.call_owner();
    }
}

impl std::fmt::Debug for Arrived {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arrived")
            .field("completions", &lock(&self.completions).len())
            .finish_non_exhaustive()
    }
}

/// Whether this kernel lets us have rings at all.
pub(super) fn is_available() -> bool {
    IoUring::new(2).is_ok()
}

impl Uring {
    /// # Errors
    /// `Unsupported` where the kernel has no ring.
    pub(super) fn new(image: &Arc<Image>, queue: &WayQueue<'_>) -> Result<Self> {
        let arrived = Arc::new(Arrived {
            completions: Mutex::default(),
            gate: Arc::clone(queue.gate),
        });
        let sink: Arc<dyn IoSink> = Arc::<Arrived>::clone(&arrived);
        Ok(Uring {
            queue: queue.aio.register_io(sink)?,
            arrived,
            spare: Vec::new(),
            slots: Slots {
                image: Arc::clone(image),
                requests: Vec::new(),
                free: Vec::new(),
            },
        })
    }

    /// Pushes the next entry of each request; those that are finished without go to `finished`.
    pub(super) fn start(&mut self, requests: &mut RequestBatch, finished: &mut Vec<Finished>) {
        let slots = &mut self.slots;
        let pushed = self.queue.batch(|batch| {
            for request in requests.drain(..) {
                finished.extend(slots.push(batch, request));
            }
        });
        if let Err(error) = pushed {
            let result = -error.errno();
            let failed = |request| Finished { request, result };
            finished.extend(requests.drain(..).map(failed));
        }
    }

    /// Takes in the completions that arrived: requests that need another entry go to `again`, the others to `finished`.
    pub(super) fn reap(&mut self, again: &mut RequestBatch, finished: &mut Vec<Finished>) {
        mem::swap(&mut *lock(&self.arrived.completions), &mut self.spare);
        for completion in self.spare.drain(..) {
            let Some(mut request) = self.slots.take(completion.user) else {
                continue;
            };
            match take_result(&self.slots.image, &mut request, completion.result) {
                ControlFlow::Break(result) => finished.push(Finished { request, result }),
                ControlFlow::Continue(()) => again.push(request),
            }
        }
    }
}

impl Slots {
    fn put(&mut self, request: Box<Request>) -> usize {
        let Some(user) = self.free.pop() else {
            self.requests.push(Some(request));
            return self.requests.len() - 1;
        };
        self.requests[user] = Some(request);
        user
    }

    fn take(&mut self, user: u64) -> Option<Box<Request>> {
        let user = usize::try_from(user).ok()?;
        let request = self.requests.get_mut(user)?.take()?;
        self.free.push(user);
        Some(request)
    }

    /// Pushes the request's next entry; gives the request back if it is finished without.
    fn push(&mut self, batch: &mut IoBatch<'_>, mut request: Box<Request>) -> Option<Finished> {
        let Some(entry) = entry(&self.image, &mut request) else {
            return Some(Finished { request, result: 0 });
        };
        let user = self.put(request) as u64;
        // SAFETY: the slots own the request with all memory that the entry names, and the file (invariant 1).
        let Err(error) = (unsafe { batch.push(user, entry) }) else {
            return None;
        };
        let back = self.take(user)?;
        if error.kind() == ErrorKind::LimitExceeded {
            // The ring is full although the kernel was asked to empty it: better slow than failed.
            return Some(super::threads::run(&self.image, back));
        }
        Some(Finished {
            request: back,
            result: -error.errno(),
        })
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        if self.requests.iter().any(Option::is_some) {
            // Invariant 1.
            mem::forget(mem::take(&mut self.requests));
            mem::forget(Arc::clone(&self.image));
        }
    }
}

/// The next step as an entry; `None` if nothing is left to do.
fn entry(image: &Image, request: &mut Request) -> Option<Entry> {
    let fd = types::Fd(image.as_raw_fd());
    let entry = match next_step(image, request) {
        Step::Read(memory, offset) => read(fd, memory, offset),
        Step::Write(memory, offset) => write(fd, memory, offset),
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

fn read(fd: types::Fd, memory: Memory<'_>, offset: u64) -> Entry {
    if let [one] = memory.vectors()
        && let Some(len) = length(one)
    {
        let read = opcode::Read::new(fd, one.iov_base.cast(), len);
        return read.offset(offset).build();
    }
    let vectors = memory.vectors();
    let read = opcode::Readv::new(fd, vectors.as_ptr(), count(vectors));
    read.offset(offset).build()
}

fn write(fd: types::Fd, memory: Memory<'_>, offset: u64) -> Entry {
    if let [one] = memory.vectors()
        && let Some(len) = length(one)
    {
        let write = opcode::Write::new(fd, one.iov_base.cast_const().cast(), len);
        return write.offset(offset).build();
    }
    let vectors = memory.vectors();
    let write = opcode::Writev::new(fd, vectors.as_ptr(), count(vectors));
    write.offset(offset).build()
}

/// The length of a vector that one call can move.
fn length(vector: &libc::iovec) -> Option<u32> {
    u32::try_from(vector.iov_len)
        .ok()
        .filter(|&len| len <= MAX_LEN)
}

/// What the kernel moves at most in one call.
const MAX_LEN: u32 = 0x7fff_f000;

fn count(vectors: &[libc::iovec]) -> u32 {
    u32::try_from(vectors.len()).unwrap_or(u32::MAX)
}
