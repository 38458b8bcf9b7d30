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
//! A channel belongs to one owner, a device queue for example, which locks around it and uses it on the home thread of
//! its AioContext. When requests have finished there, the channel calls [`ChannelOwner::ready`] with no lock held, and the
//! owner takes them with [`Channel::reap`].
//!
//! # Invariants
//! 1. A request in flight is owned by the engine; it comes back exactly once, from `submit` or from `reap`.
//! 2. The owner of a channel drops it only when [`Channel::in_flight`] is 0; else the requests are leaked, because
//!    the kernel may still use their memory.
#![deny(unsafe_code)] // children that need it say why

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Weak};

use gsource::{AioContext, Bh};

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

/// The owner of a channel, as the channel sees it.
pub trait ChannelOwner: Send + Sync {
    /// There is something to [`reap`](Channel::reap). Called on the home thread of the channel's AioContext, once for
    /// many requests, with no lock held.
    fn ready(&self);
}

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
    /// Calls the owner in the next iteration.
    ready: Arc<Bh>,
    /// Requests for the engine, until the batch ends.
    fresh: RequestBatch,
    /// Requests that wait for a bounce buffer.
    waiting: VecDeque<Box<Request>>,
    /// Requests that the engine could not start, until the owner reaps them.
    unstarted: Vec<Finished>,
    pool: RequestBatch,
    in_flight: usize,
}

/// Requests in their boxes, which they keep on the way through.
type RequestBatch = Vec<Box<Request>>;

#[derive(Debug)]
enum Engine {
    None,
    Uring(Uring),
    Threads(Threads),
}

impl Engine {
    /// Starts requests; those that are finished already go to `finished`.
    fn start(
        &mut self,
        file: &ImageFile,
        requests: &mut RequestBatch,
        finished: &mut Vec<Finished>,
    ) {
        match self {
            // A null disk answers before it comes here.
            Engine::None => {}
            Engine::Uring(uring) => uring.start(file, requests, finished),
            Engine::Threads(threads) => threads.start(requests),
        }
    }
}

impl Channel {
    /// Opens a channel to `node` for requests in the callbacks of `aio`. The channel holds its owner weakly, because the
    /// owner usually has the channel.
    ///
    /// # Errors
    /// `Os` if the engine has no resources left.
    pub fn open(
        node: &Arc<Node>,
        aio: &AioContext,
        owner: Weak<dyn ChannelOwner>,
    ) -> Result<Channel> {
        let owner_of_bh = Weak::clone(&owner);
        let ready = Arc::new(aio.bh("block-channel", move || call_owner(&owner_of_bh)));
        let engine = match node.backend() {
            Backend::Null(_) => Engine::None,
            Backend::File(file) => open_engine(file, node.aio(), aio, owner, &ready),
        };
        Ok(Channel {
            inline: Inline::new(node.backend()),
            bounces: Bounces::new(node.backend()),
            node: Arc::clone(node),
            backend: node.backend().clone(),
            engine,
            ready,
            fresh: Vec::new(),
            waiting: VecDeque::new(),
            unstarted: Vec::new(),
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
        if step::is_ignored(file, &request) {
            return Submission::Done(Finished { request, result: 0 });
        }
        if let Some(result) = self.inline.try_run(file, &mut request) {
            return Submission::Done(Finished { request, result });
        }
        self.in_flight += 1;
        if self.bounces.wants(&request) {
            self.waiting.push_back(request);
            self.start_waiting();
        } else {
            self.fresh.push(request);
        }
        Submission::Queued
    }

    /// Hands over to the engine what was submitted since the last time; once per batch.
    pub fn flush_submissions(&mut self) {
        let Backend::File(file) = &self.backend else {
            return;
        };
        if self.fresh.is_empty() {
            return;
        }
        self.engine
            .start(file, &mut self.fresh, &mut self.unstarted);
        if !self.unstarted.is_empty() {
            self.ready.schedule();
        }
    }

    /// Appends what is finished to `finished`, and goes on with what is not.
    pub fn reap(&mut self, finished: &mut Vec<Finished>) {
        let Backend::File(file) = &self.backend else {
            return;
        };
        if self.in_flight == 0 {
            return;
        }
        let before = finished.len();
        match &mut self.engine {
            Engine::None => {}
            Engine::Uring(uring) => uring.reap(file, &mut self.fresh, finished),
            Engine::Threads(threads) => threads.reap(finished),
        }
        finished.append(&mut self.unstarted);
        self.in_flight -= finished.len() - before;
        for done in &mut finished[before..] {
            if let Some(bounce) = done.request.bounce.take() {
                self.inline.charge(done.request.length);
                self.bounces.put(bounce);
            }
        }
        self.start_waiting();
        self.flush_submissions();
    }

    /// Starts the requests for which there are bounce buffers.
    fn start_waiting(&mut self) {
        while let Some(request) = self.waiting.front_mut() {
            let Some(bounce) = self.bounces.take() else {
                return;
            };
            request.bounce = Some(bounce);
            self.fresh.extend(self.waiting.pop_front());
        }
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
        }
    }
}

/// The engine that the node asks for; threads where the kernel offers no ring to this context.
fn open_engine(
    file: &Arc<ImageFile>,
    wanted: Aio,
    aio: &AioContext,
    owner: Weak<dyn ChannelOwner>,
    ready: &Arc<Bh>,
) -> Engine {
    if wanted != Aio::Threads
        && let Ok(uring) = Uring::new(aio, owner)
    {
        return Engine::Uring(uring);
    }
    Engine::Threads(Threads::new(Arc::clone(file), aio, ready))
}

fn call_owner(owner: &Weak<dyn ChannelOwner>) {
    if let Some(owner) = owner.upgrade() {
        owner.ready();
    }
}
