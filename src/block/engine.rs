//! Carries out requests: the channel of a queue and the engines behind it.
//!
//! Used by devices. A request takes the first way that is open to it:
//!
//! 1. at once: a null disk, a refused request, or inline I/O (see [`inline`]);
//! 2. [`uring`]: the home's io_uring, entered once per iteration for all;
//! 3. [`threads`]: the worker pool of the home.
//!
//! Which system call comes next and what its result means is decided in one place, [`step`], for all of them.
//!
//! # Threads
//! A channel belongs to one device queue, which locks around it; the sink it was opened with is told about
//! completions on the home thread and passes them to [`Channel::reap`].
//!
//! # Invariants
//! 1. A request in flight is owned by the engine; it comes back exactly once, from `submit` or from `reap`.
//! 2. Whoever drops a channel has waited until [`Channel::in_flight`] is 0; else the requests are leaked, because
//!    the kernel may still use their memory.
#![deny(unsafe_code)] // children that need it say why

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use gsource::{AioContext, IoCompletion, IoSink};

use super::file::ImageFile;
use super::node::{Aio, Backend, Node};
use super::request::{Op, Request};
use crate::Result;

mod bounce;
mod inline;
mod step;
mod threads;
pub(super) mod uring;

pub(super) use bounce::Bounce;
use bounce::Bounces;
use inline::Inline;
use threads::Threads;
use uring::Uring;

/// A finished request and 0 or the errno that ended it.
#[derive(Debug)]
pub struct Finished {
    /// The request; give it back with [`Channel::recycle`].
    pub request: Box<Request>,
    /// 0, or a negative errno.
    pub result: i32,
}

/// What became of a submitted request.
#[derive(Debug)]
pub enum Submission {
    /// It comes back from [`Channel::reap`].
    Queued,
    /// It is finished already.
    Done(Finished),
}

/// One queue's way to a node.
#[derive(Debug)]
pub struct Channel {
    node: Arc<Node>,
    /// The node's, without the way through it.
    backend: Backend,
    engine: Engine,
    inline: Inline,
    bounces: Bounces,
    /// Requests that wait for a bounce buffer.
    waiting: VecDeque<Box<Request>>,
    #[expect(clippy::vec_box, reason = "requests keep their box on the way through")]
    pool: Vec<Box<Request>>,
    in_flight: usize,
}

#[derive(Debug)]
enum Engine {
    None,
    Uring(Uring),
    Threads(Threads),
}

impl Engine {
    /// Starts a request; gives it back if it is finished already.
    fn start(&mut self, file: &ImageFile, request: Box<Request>) -> Option<Finished> {
        match self {
            // A null disk answers before it comes here.
            Engine::None => Some(Finished {
                request,
                result: -libc::EIO,
            }),
            Engine::Uring(uring) => uring.start(file, request),
            Engine::Threads(threads) => {
                threads.start(request);
                None
            }
        }
    }
}

impl Channel {
    /// Opens a channel to `node`; `sink` hears of completions on the thread that drives `aio`.
    ///
    /// # Errors
    /// `Os` if the engine has no resources left.
    pub fn open(node: &Arc<Node>, aio: &AioContext, sink: Arc<dyn IoSink>) -> Result<Channel> {
        let engine = match node.backend() {
            Backend::Null(_) => Engine::None,
            Backend::File(file) => open_engine(file, node.aio(), aio, sink),
        };
        Ok(Channel {
            inline: Inline::new(node.backend()),
            bounces: Bounces::new(node.backend()),
            node: Arc::clone(node),
            backend: node.backend().clone(),
            engine,
            waiting: VecDeque::new(),
            pool: Vec::new(),
            in_flight: 0,
        })
    }

    /// Begins a batch: what may be done at once is limited per batch.
    pub fn begin_batch(&mut self) {
        self.inline.refill();
    }

    /// Whether this batch has done as much at once as it may; the rest should wait for the next iteration, so that
    /// neighbours on the same context get their turn.
    pub fn is_spent(&self) -> bool {
        self.inline.is_spent()
    }

    /// A fresh request from the pool.
    pub fn request(&mut self, op: Op, offset: u64, tag: u64) -> Box<Request> {
        let mut request = self.pool.pop().unwrap_or_else(|| Box::new(Request::new()));
        request.reset(op, offset, tag);
        request
    }

    /// Takes a request back into the pool.
    pub fn recycle(&mut self, request: Box<Request>) {
        self.pool.push(request);
    }

    /// How many requests have not come back yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Starts a request.
    pub fn submit(&mut self, mut request: Box<Request>) -> Submission {
        if let Some(result) = self.refuse(&request) {
            return Submission::Done(Finished { request, result });
        }
        let file = match &self.backend {
            Backend::Null(null) => {
                self.inline.charge(null.run(&mut request));
                return Submission::Done(Finished { request, result: 0 });
            }
            Backend::File(file) => file,
        };
        if let Some(result) = self.inline.try_run(file, &mut request) {
            return Submission::Done(Finished { request, result });
        }
        self.in_flight += 1;
        if self.bounces.wants(&request) {
            let Some(bounce) = self.bounces.take() else {
                self.waiting.push_back(request);
                return Submission::Queued;
            };
            request.bounce = Some(bounce);
        }
        match self.engine.start(file, request) {
            None => Submission::Queued,
            Some(finished) => Submission::Done(self.retire(finished)),
        }
    }

    /// Hands over to the engine what was submitted since the last time; once per batch.
    pub fn flush_submissions(&mut self) {
        if let Engine::Threads(threads) = &mut self.engine {
            threads.flush();
        }
    }

    /// Takes in the completions that the sink was told of and appends what is finished to `finished`.
    pub fn reap(&mut self, completions: &[IoCompletion], finished: &mut Vec<Finished>) {
        let Backend::File(file) = &self.backend else {
            return;
        };
        let before = finished.len();
        match &mut self.engine {
            Engine::None => {}
            Engine::Uring(uring) => uring.reap(file, completions, finished),
            Engine::Threads(threads) => threads.reap(finished),
        }
        for done in &mut finished[before..] {
            self.in_flight -= 1;
            if let Some(bounce) = done.request.bounce.take() {
                self.inline.charge(done.request.length);
                self.bounces.put(bounce);
            }
        }
        self.start_waiting(finished);
    }

    /// Starts the requests for which there are bounce buffers again.
    fn start_waiting(&mut self, finished: &mut Vec<Finished>) {
        while !self.waiting.is_empty() {
            let Backend::File(file) = &self.backend else {
                return;
            };
            let Some(bounce) = self.bounces.take() else {
                return;
            };
            let Some(mut request) = self.waiting.pop_front() else {
                return;
            };
            request.bounce = Some(bounce);
            if let Some(done) = self.engine.start(file, request) {
                let done = self.retire(done);
                finished.push(done);
            }
        }
    }

    /// Undoes the accounting of a request that finished while it was started.
    fn retire(&mut self, mut finished: Finished) -> Finished {
        self.in_flight -= 1;
        if let Some(bounce) = finished.request.bounce.take() {
            self.bounces.put(bounce);
        }
        finished
    }

    /// What no engine needs to see: the errno or success that a request has by itself.
    fn refuse(&self, request: &Request) -> Option<i32> {
        if request.op == Op::Flush {
            return None;
        }
        let end = request.offset.checked_add(request.length);
        let unit = self.node.block_size() - 1;
        if end.is_none_or(|end| end > self.node.length())
            || (request.offset | request.length) & unit != 0
        {
            return Some(-libc::EINVAL);
        }
        if request.op != Op::Read && self.node.is_read_only() {
            return Some(-libc::EROFS);
        }
        (request.length == 0).then_some(0)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if self.in_flight > 0 {
            // Invariant 2.
            mem::forget(mem::replace(&mut self.engine, Engine::None));
            mem::forget(mem::take(&mut self.waiting));
        }
    }
}

/// The engine that the node asks for; threads where the kernel offers no ring to this context.
fn open_engine(
    file: &Arc<ImageFile>,
    wanted: Aio,
    aio: &AioContext,
    sink: Arc<dyn IoSink>,
) -> Engine {
    if wanted != Aio::Threads
        && let Ok(queue) = aio.register_io(Arc::clone(&sink))
    {
        return Engine::Uring(Uring::new(queue));
    }
    Engine::Threads(Threads::new(Arc::clone(file), aio, &sink))
}
