//! A node below a layer, as the layer's tasks use it.
//!
//! It is the node's own way for the same queue. Requests that the way does not finish at once have a slot, where their tasks
//! wait for them.
//!
//! # Threads
//! The home of the queue. The lock is there for tasks that are `Send`, and is never contended.
#![forbid(unsafe_code)]

use std::io;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use super::Way;
use super::task::queue::TaskQueue;
use crate::block::request::{Finished, Op, Request, RequestBatch};
use crate::block::transfer::{Carrier, Slots, Transfer};

/// A node below; see the head of this file.
#[derive(Debug)]
pub(in crate::block) struct Below {
    queue: Arc<TaskQueue>,
    state: Mutex<BelowState>,
}

#[derive(Debug)]
struct BelowState {
    way: Way,
    slots: Slots,
    pool: RequestBatch,
    /// Empty between calls.
    finished: Vec<Finished>,
}

impl Below {
    pub(super) fn new(way: Way, queue: &Arc<TaskQueue>) -> Below {
        let state = BelowState {
            way,
            slots: Slots::default(),
            pool: Vec::new(),
            finished: Vec::new(),
        };
        Below {
            queue: Arc::clone(queue),
            state: Mutex::new(state),
        }
    }

    /// A fresh request from the pool.
    pub(in crate::block) fn request(&self, op: Op, offset: u64) -> Box<Request> {
        let pooled = self.state().pool.pop();
        let mut request = pooled.unwrap_or_else(|| Box::new(Request::new()));
        request.reset(op, offset, 0);
        request
    }

    /// Takes a request back into the pool.
    pub(in crate::block) fn recycle(&self, request: Box<Request>) {
        self.state().pool.push(request);
    }

    /// Carries out a request. It starts with the first poll. If the future is dropped after that, the request goes on, and
    /// its memory must stay.
    pub(in crate::block) fn submit(&self, request: Box<Request>) -> Transfer<&Below> {
        Transfer::new(self, request)
    }

    /// Carries out a request whose memory is lent, and takes it back into the pool. If the future is dropped before its end,
    /// the process aborts, because the kernel may still have the memory.
    pub(in crate::block) async fn finish(&self, request: Box<Request>) -> io::Result<()> {
        let guard = MustFinish;
        let finished = self.submit(request).await;
        mem::forget(guard);
        self.recycle(finished.request);
        match finished.result {
            0 => Ok(()),
            result => Err(io::Error::from_raw_os_error(-result)),
        }
    }

    /// Whether it takes writes of parts of its blocks.
    pub(in crate::block) fn takes_parts(&self) -> bool {
        self.state().way.takes_parts()
    }

    pub(in crate::block) fn flush_submissions(&self) {
        self.state().way.flush_submissions();
    }

    /// Takes what has finished, and wakes the tasks that wait for it.
    pub(in crate::block) fn reap(&self) {
        let budget = &mut *self.queue.budget();
        let mut state = self.state();
        if state.slots.is_empty() && self.queue.gate().background() == 0 {
            return;
        }
        let mut finished = mem::take(&mut state.finished);
        state.way.reap(budget, &mut finished);
        for done in finished.drain(..) {
            if let Some(waker) = state.slots.settle(done) {
                // A waker only puts a task on a list.
                waker.wake();
            }
        }
        state.finished = finished;
    }

    /// The state is consistent after every single operation on it.
    fn state(&self) -> MutexGuard<'_, BelowState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Carrier for &Below {
    fn start(&self, request: Box<Request>, waker: &Waker) -> Result<Finished, usize> {
        let budget = &mut *self.queue.budget();
        let BelowState { way, slots, .. } = &mut *self.state();
        slots.send(request, waker, |request| way.submit(request, budget))
    }

    fn collect(&self, index: usize, waker: &Waker) -> Option<Finished> {
        self.state().slots.collect(index, waker)
    }

    fn abandon(&self, index: usize) {
        self.state().slots.abandon(index);
    }
}

/// Ends the process if a request is dropped while the kernel may have its memory.
struct MustFinish;

impl Drop for MustFinish {
    fn drop(&mut self) {
        glib::g_critical!("qcontext", "a request to an image was dropped in flight");
        std::process::abort();
    }
}
