//! A node below a layer, as the layer's tasks use it.
//!
//! It is the node's own way for the same queue. Requests that the way does not finish at once have a slot, whose number
//! they carry as their tag; the slot keeps the tag that they came with, and the waker of the task that waits.
//!
//! # Threads
//! The home of the queue. The lock is there for tasks that are `Send`, and is never contended.
#![forbid(unsafe_code)]

use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::Way;
use super::task::queue::TaskQueue;
use crate::block::budget::Budget;
use crate::block::request::{Finished, Op, Request, RequestBatch, Submission};

/// A node below; see the head of this file.
#[derive(Debug)]
pub(in crate::block) struct Below {
    queue: Arc<TaskQueue>,
    state: Mutex<BelowState>,
}

#[derive(Debug)]
struct BelowState {
    way: Way,
    slots: Vec<Slot>,
    free: Vec<usize>,
    pool: RequestBatch,
    /// Empty between calls.
    finished: Vec<Finished>,
}

#[derive(Debug)]
enum Slot {
    Free,
    /// The way has the request, and this task waits for it.
    Waiting {
        tag: u64,
        waker: Waker,
    },
    /// The request is back.
    Back(Finished),
    /// The way has the request, and no task waits for it any more.
    Abandoned,
}

impl Below {
    pub(super) fn new(way: Way, queue: &Arc<TaskQueue>) -> Below {
        let state = BelowState {
            way,
            slots: Vec::new(),
            free: Vec::new(),
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
    pub(in crate::block) fn submit(&self, request: Box<Request>) -> Transfer<'_> {
        Transfer {
            below: self,
            stage: TransferStage::New(request),
        }
    }

    pub(in crate::block) fn flush_submissions(&self) {
        self.state().way.flush_submissions();
    }

    /// Takes what has finished, and wakes the tasks that wait for it.
    pub(in crate::block) fn reap(&self) {
        let budget = &mut *self.queue.budget();
        let mut state = self.state();
        if state.slots.len() == state.free.len() {
            return;
        }
        let mut finished = mem::take(&mut state.finished);
        state.way.reap(budget, &mut finished);
        for done in finished.drain(..) {
            if let Some(waker) = state.settle(done) {
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

    /// Starts a request: its result if it is there at once, or its slot.
    fn start(&self, request: Box<Request>, waker: &Waker) -> Result<Finished, usize> {
        let budget = &mut *self.queue.budget();
        self.state().start(request, waker, budget)
    }

    /// The task does not wait any more.
    fn abandon(&self, index: usize) {
        let mut state = self.state();
        let slot = mem::replace(&mut state.slots[index], Slot::Abandoned);
        if let Slot::Back(_) = slot {
            state.slots[index] = Slot::Free;
            state.free.push(index);
        }
    }
}

impl BelowState {
    fn take_slot(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            self.slots.len() - 1
        })
    }

    fn start(
        &mut self,
        mut request: Box<Request>,
        waker: &Waker,
        budget: &mut Budget,
    ) -> Result<Finished, usize> {
        let index = self.take_slot();
        let tag = request.replace_tag(index as u64);
        match self.way.submit(request, budget) {
            Submission::Queued => {
                let waker = waker.clone();
                self.slots[index] = Slot::Waiting { tag, waker };
                Err(index)
            }
            Submission::Done(mut finished) => {
                self.free.push(index);
                finished.request.replace_tag(tag);
                Ok(finished)
            }
        }
    }

    /// The result of the request in a slot, if it is there.
    fn collect(&mut self, index: usize, waker: &Waker) -> Option<Finished> {
        let slot = &mut self.slots[index];
        if let Slot::Waiting { waker: known, .. } = slot {
            known.clone_from(waker);
            return None;
        }
        let Slot::Back(finished) = mem::replace(slot, Slot::Free) else {
            unreachable!("a transfer has its slot until it has its result")
        };
        self.free.push(index);
        Some(finished)
    }

    /// Puts a request that is back into its slot. Returns the waker of the task that waits for it.
    fn settle(&mut self, mut finished: Finished) -> Option<Waker> {
        let index = usize::try_from(finished.request.tag()).ok()?;
        match mem::replace(self.slots.get_mut(index)?, Slot::Free) {
            Slot::Waiting { tag, waker } => {
                finished.request.replace_tag(tag);
                self.slots[index] = Slot::Back(finished);
                Some(waker)
            }
            _ => {
                self.free.push(index);
                None
            }
        }
    }
}

/// A request on its way to a node below and back.
#[derive(Debug)]
#[must_use = "a request starts when its future is awaited"]
pub(in crate::block) struct Transfer<'a> {
    below: &'a Below,
    stage: TransferStage,
}

#[derive(Debug)]
enum TransferStage {
    New(Box<Request>),
    /// The way has the request in this slot.
    Sent(usize),
    Over,
}

impl Future for Transfer<'_> {
    type Output = Finished;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Finished> {
        let waker = context.waker();
        let finished = match mem::replace(&mut self.stage, TransferStage::Over) {
            TransferStage::New(request) => self.below.start(request, waker),
            TransferStage::Sent(index) => self.below.state().collect(index, waker).ok_or(index),
            TransferStage::Over => unreachable!("polled after its end"),
        };
        match finished {
            Ok(finished) => Poll::Ready(finished),
            Err(index) => {
                self.stage = TransferStage::Sent(index);
                Poll::Pending
            }
        }
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        if let TransferStage::Sent(index) = self.stage {
            self.below.abandon(index);
        }
    }
}
