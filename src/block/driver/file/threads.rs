//! The thread engine: requests run on the worker pool of the home.
//!
//! Used by [`super::FileWay`] where io_uring is not wanted, or not allowed by the kernel. The pool gets the same piece of
//! work as often as there are requests, so a request costs no allocation. Finished requests come home through a bottom
//! half, many at a time.
//!
//! # Threads
//! `start` and `reap` belong to the home; the workers share the two lists with it.
#![allow(unsafe_code)] // preadv, pwritev, fdatasync and fallocate

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gsource::{AioContext, Work};

use super::super::WayQueue;
use super::image::Image;
use super::step::{Step, next_step, take_result};
use crate::block::channel::{Finished, Gate, RequestBatch};
use crate::block::request::Request;

/// A channel's way to the pool.
pub(super) struct Threads {
    aio: AioContext,
    shared: Arc<Shared>,
    /// `shared`, as the pool takes it.
    work: Arc<dyn Work>,
    /// Swapped with the list of finished requests, so that both keep their memory.
    spare: Vec<Finished>,
}

#[derive(Debug)]
struct Shared {
    image: Arc<Image>,
    /// One for each time that the pool has been given the work.
    queue: Mutex<VecDeque<Box<Request>>>,
    finished: Mutex<Vec<Finished>>,
    /// Takes the news to the home.
    gate: Arc<Gate>,
}

impl Threads {
    pub(super) fn new(image: &Arc<Image>, queue: &WayQueue<'_>) -> Self {
        let shared = Arc::new(Shared {
            image: Arc::clone(image),
            queue: Mutex::default(),
            finished: Mutex::default(),
            gate: Arc::clone(queue.gate),
        });
        Threads {
            aio: queue.aio.clone(),
            work: Arc::<Shared>::clone(&shared),
            shared,
            spare: Vec::new(),
        }
    }

    /// Gives requests to the workers.
    pub(super) fn start(&mut self, requests: &mut RequestBatch) {
        let count = requests.len();
        lock(&self.shared.queue).extend(requests.drain(..));
        self.aio.pool().enqueue(&self.work, count);
    }

    /// Appends what the workers finished.
    pub(super) fn reap(&mut self, finished: &mut Vec<Finished>) {
        let mut list = lock(&self.shared.finished);
        mem::swap(&mut *list, &mut self.spare);
        drop(list);
        finished.append(&mut self.spare);
    }
}

impl std::fmt::Debug for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Threads")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

impl Work for Shared {
    fn run(&self) {
        let request = lock(&self.queue).pop_front();
        if let Some(request) = request {
            let finished = run(&self.image, request);
            lock(&self.finished).push(finished);
            self.gate.schedule();
        }
    }
}

/// The lists stay consistent even if a thread panicked between two of their operations.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Carries out a request to its end, on the calling thread.
pub(super) fn run(image: &Image, mut request: Box<Request>) -> Finished {
    loop {
        let result = call(image, &mut request);
        if let ControlFlow::Break(result) = take_result(image, &mut request, result) {
            return Finished { request, result };
        }
    }
}

/// One system call; a count or a negative errno.
fn call(image: &Image, request: &mut Request) -> i32 {
    let fd = image.as_raw_fd();
    let count = |vectors: &[libc::iovec]| i32::try_from(vectors.len()).unwrap_or(i32::MAX);
    let result = match next_step(image, request) {
        Step::Read(memory, offset) => {
            let vectors = memory.vectors();
            // SAFETY: the memory is valid for a system call while it is borrowed, which is its promise.
            unsafe { libc::preadv(fd, vectors.as_ptr(), count(vectors), offset.cast_signed()) }
        }
        Step::Write(memory, offset) => {
            let vectors = memory.vectors();
            // SAFETY: as above.
            unsafe { libc::pwritev(fd, vectors.as_ptr(), count(vectors), offset.cast_signed()) }
        }
        // SAFETY: no memory involved.
        Step::DataSync => unsafe { libc::fdatasync(fd) as isize },
        Step::Allocate {
            mode,
            offset,
            length,
        } => {
            // SAFETY: no memory involved.
            unsafe {
                libc::fallocate(fd, mode, offset.cast_signed(), length.cast_signed()) as isize
            }
        }
        Step::Nothing => 0,
    };
    count_or_errno(result)
}

/// A system call's result in one number.
pub(super) fn count_or_errno(result: isize) -> i32 {
    if result < 0 {
        let errno = io::Error::last_os_error().raw_os_error();
        return -errno.unwrap_or(libc::EIO);
    }
    i32::try_from(result).unwrap_or(i32::MAX)
}
