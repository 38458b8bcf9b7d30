//! The io_uring engine: requests go into the ring of the home that drives the AioContext.
//!
//! Used by [`super::Channel`]. The ring is entered by the home once per iteration; here entries are only pushed.
//!
//! # Threads
//! All belongs to the home. The list of completions has a lock because the ring fills it while the channel is not locked.
//!
//! # Invariants
//! 1. `slots[user]` owns the request whose entry carries `user`, until that entry's completion arrived. So all memory
//!    that an entry names, vectors included, stays in place.
#![allow(unsafe_code)] // pushing entries promises the kernel valid memory

use std::mem;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, Weak};

use gsource::{AioContext, IoBatch, IoCompletion, IoQueue, IoSink};
use io_uring::squeue::Entry;
use io_uring::{IoUring, opcode, types};

use super::super::file::ImageFile;
use super::super::request::Request;
use super::step::{Step, next_step, take_result};
use super::threads::lock;
use super::{ChannelOwner, Finished, RequestBatch, call_owner};
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

/// The requests that the kernel has.
#[derive(Debug, Default)]
struct Slots {
    requests: Vec<Option<Box<Request>>>,
    free: Vec<usize>,
}

/// Completions on their way from the ring to the channel.
struct Arrived {
    completions: Mutex<Vec<IoCompletion>>,
    owner: Weak<dyn ChannelOwner>,
}

impl IoSink for Arrived {
    fn complete(&self, completions: &[IoCompletion]) {
        lock(&self.completions).extend_from_slice(completions);
        call_owner(&self.owner);
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
pub(in crate::block) fn is_available() -> bool {
    IoUring::new(2).is_ok()
}

impl Uring {
    /// # Errors
    /// `Unsupported` where the kernel has no ring.
    pub(super) fn new(aio: &AioContext, owner: Weak<dyn ChannelOwner>) -> Result<Self> {
        let arrived = Arc::new(Arrived {
            completions: Mutex::default(),
            owner,
        });
        let sink: Arc<dyn IoSink> = Arc::<Arrived>::clone(&arrived);
        Ok(Uring {
            queue: aio.register_io(sink)?,
            arrived,
            spare: Vec::new(),
            slots: Slots::default(),
        })
    }

    /// Pushes the next entry of each request; those that are finished without go to `finished`.
    pub(super) fn start(
        &mut self,
        file: &ImageFile,
        requests: &mut RequestBatch,
        finished: &mut Vec<Finished>,
    ) {
        let slots = &mut self.slots;
        let pushed = self.queue.batch(|batch| {
            for request in requests.drain(..) {
                finished.extend(slots.push(batch, file, request));
            }
        });
        if let Err(error) = pushed {
            let result = -error.errno();
            let failed = |request| Finished { request, result };
            finished.extend(requests.drain(..).map(failed));
        }
    }

    /// Takes in the completions that arrived: requests that need another entry go to `again`, the others to `finished`.
    pub(super) fn reap(
        &mut self,
        file: &ImageFile,
        again: &mut RequestBatch,
        finished: &mut Vec<Finished>,
    ) {
        mem::swap(&mut *lock(&self.arrived.completions), &mut self.spare);
        for completion in self.spare.drain(..) {
            let Some(mut request) = self.slots.take(completion.user) else {
                continue;
            };
            match take_result(file, &mut request, completion.result) {
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
    fn push(
        &mut self,
        batch: &mut IoBatch<'_>,
        file: &ImageFile,
        mut request: Box<Request>,
    ) -> Option<Finished> {
        let Some(entry) = entry(file, &mut request) else {
            return Some(Finished { request, result: 0 });
        };
        let user = self.put(request) as u64;
        // SAFETY: the request owns all memory that the entry names, and stays in its slot (invariant 1).
        let Err(error) = (unsafe { batch.push(user, entry) }) else {
            return None;
        };
        let back = self.take(user)?;
        if error.kind() == ErrorKind::LimitExceeded {
            // The ring is full although the kernel was asked to empty it: better slow than failed.
            return Some(super::threads::run(file, back));
        }
        Some(Finished {
            request: back,
            result: -error.errno(),
        })
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
