//! The thread engine: a small pool that belongs to one channel.
//!
//! Used by [`super::Channel`] where io_uring is not wanted or not to be had. Threads are started when there is more
//! work than idle threads, up to a bound, and go away when idle for a while. Finished requests come home through a
//! bottom half, many at a time.
//!
//! # Threads
//! `start`, `flush` and `reap` belong to the home; the workers share the two lists with it.
#![allow(unsafe_code)] // preadv, pwritev, fdatasync and fallocate

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use gsource::{AioContext, Bh, IoSink};

use super::super::file::ImageFile;
use super::super::request::Request;
use super::Finished;
use super::step::{Step, next_step, take_result};

/// The most threads of one channel.
const THREADS_MAX: usize = 16;

/// How long a thread waits for work before it goes away.
const IDLE: Duration = Duration::from_secs(10);

/// A channel's pool.
#[derive(Debug)]
pub(super) struct Threads {
    shared: Arc<Shared>,
    /// Submitted since the last flush.
    #[expect(clippy::vec_box, reason = "requests keep their box on the way through")]
    fresh: Vec<Box<Request>>,
    /// Swapped with the list of finished requests, so that both keep their memory.
    spare: Vec<Finished>,
}

#[derive(Debug)]
struct Shared {
    file: Arc<ImageFile>,
    work: Mutex<Work>,
    wanted: Condvar,
    finished: Mutex<Vec<Finished>>,
    ready: Bh,
}

#[derive(Debug, Default)]
struct Work {
    queue: VecDeque<Box<Request>>,
    threads: usize,
    idle: usize,
    closing: bool,
}

impl Threads {
    pub(super) fn new(file: Arc<ImageFile>, aio: &AioContext, sink: &Arc<dyn IoSink>) -> Self {
        // The sink usually owns this pool.
        let sink = Arc::downgrade(sink);
        let ready = move || {
            if let Some(sink) = sink.upgrade() {
                sink.complete(&[]);
            }
        };
        let shared = Shared {
            file,
            work: Mutex::default(),
            wanted: Condvar::new(),
            finished: Mutex::default(),
            ready: aio.bh("block-threads", ready),
        };
        Threads {
            shared: Arc::new(shared),
            fresh: Vec::new(),
            spare: Vec::new(),
        }
    }

    pub(super) fn start(&mut self, request: Box<Request>) {
        self.fresh.push(request);
    }

    /// Gives the workers what was started since the last flush.
    pub(super) fn flush(&mut self) {
        if self.fresh.is_empty() {
            return;
        }
        let mut work = lock(&self.shared.work);
        work.queue.extend(self.fresh.drain(..));
        let more = work.queue.len().saturating_sub(work.idle);
        let more = more.min(THREADS_MAX - work.threads);
        work.threads += more;
        let started = (0..more).filter(|_| Shared::spawn(&self.shared)).count();
        work.threads -= more - started;
        if work.threads == 0 {
            drop(work);
            // No thread to be had: better slow than never.
            self.shared.drain_queue();
            return;
        }
        drop(work);
        self.shared.wanted.notify_all();
    }

    /// Appends what the workers finished.
    pub(super) fn reap(&mut self, finished: &mut Vec<Finished>) {
        let mut list = lock(&self.shared.finished);
        mem::swap(&mut *list, &mut self.spare);
        drop(list);
        finished.append(&mut self.spare);
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        lock(&self.shared.work).closing = true;
        self.shared.wanted.notify_all();
    }
}

impl Shared {
    fn spawn(shared: &Arc<Shared>) -> bool {
        let shared = Arc::clone(shared);
        thread::Builder::new()
            .name("block-worker".into())
            .spawn(move || shared.work())
            .is_ok()
    }

    /// A worker's life.
    fn work(&self) {
        while let Some(request) = self.next() {
            self.finish(run(&self.file, request));
        }
    }

    #[expect(
        clippy::significant_drop_tightening,
        reason = "the loop gives the lock up to wait"
    )]
    fn next(&self) -> Option<Box<Request>> {
        let mut work = lock(&self.work);
        loop {
            if let Some(request) = work.queue.pop_front() {
                return Some(request);
            }
            if work.closing {
                work.threads -= 1;
                return None;
            }
            work.idle += 1;
            let (guard, wait) = self
                .wanted
                .wait_timeout(work, IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            work = guard;
            work.idle -= 1;
            if wait.timed_out() && work.queue.is_empty() {
                work.threads -= 1;
                return None;
            }
        }
    }

    fn drain_queue(&self) {
        let queue = mem::take(&mut lock(&self.work).queue);
        for request in queue {
            self.finish(run(&self.file, request));
        }
    }

    fn finish(&self, finished: Finished) {
        lock(&self.finished).push(finished);
        self.ready.schedule();
    }
}

/// The lists stay consistent even if a worker panicked between two of their operations.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Carries out a request to its end, on the calling thread.
pub(super) fn run(file: &ImageFile, mut request: Box<Request>) -> Finished {
    loop {
        let result = call(file, &mut request);
        if let ControlFlow::Break(result) = take_result(file, &mut request, result) {
            return Finished { request, result };
        }
    }
}

/// One system call; a count or a negative errno.
fn call(file: &ImageFile, request: &mut Request) -> i32 {
    let fd = file.as_raw_fd();
    let count = |vectors: &[libc::iovec]| i32::try_from(vectors.len()).unwrap_or(i32::MAX);
    let result = match next_step(file, request) {
        Step::Read(vectors, offset) => {
            // SAFETY: the vectors come from a request, whose memory is valid (its invariant 1).
            unsafe { libc::preadv(fd, vectors.as_ptr(), count(vectors), offset.cast_signed()) }
        }
        Step::Write(vectors, offset) => {
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
