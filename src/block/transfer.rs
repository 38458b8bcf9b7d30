//! Requests on the way to a node, and the tasks that wait for them.
//!
//! Used where tasks hand requests on: in a layer to the [node below](super::way::below), and with a
//! [`BlockBackend`](super::BlockBackend) to a channel. A request that is not finished at once has a slot, whose number it
//! carries as its tag. The slot keeps the tag that it came with, and the waker of the task that waits.
//!
//! # Invariants
//! 1. A slot is free again when its request is back and its task has taken it, or does not wait any more.
#![forbid(unsafe_code)]

use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::request::{Finished, Request, Submission};

/// The requests that some tasks wait for.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<usize>,
}

#[derive(Debug)]
enum Slot {
    Free,
    /// The request is on its way, and this task waits for it.
    Waiting {
        tag: u64,
        waker: Waker,
    },
    /// The request is back.
    Back(Finished),
    /// The request is on its way, and no task waits for it any more.
    Abandoned,
}

impl Slots {
    /// Whether no slot is in use.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.len() == self.free.len()
    }

    /// Lets `submit` start a request: its result if it is there at once, or the slot that its task waits for.
    pub(super) fn send(
        &mut self,
        mut request: Box<Request>,
        waker: &Waker,
        submit: impl FnOnce(Box<Request>) -> Submission,
    ) -> Result<Finished, usize> {
        let index = self.take_free();
        let tag = request.replace_tag(index as u64);
        match submit(request) {
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

    /// Keeps a request that is back until its task takes it.
    pub(super) fn keep(&mut self, finished: Finished) -> usize {
        let index = self.take_free();
        self.slots[index] = Slot::Back(finished);
        index
    }

    /// The result of the request in a slot, if it is there. Otherwise `waker` is woken when it is.
    pub(super) fn collect(&mut self, index: usize, waker: &Waker) -> Option<Finished> {
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
    pub(super) fn settle(&mut self, mut finished: Finished) -> Option<Waker> {
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

    /// The task does not wait any more.
    pub(super) fn abandon(&mut self, index: usize) {
        let slot = mem::replace(&mut self.slots[index], Slot::Abandoned);
        if let Slot::Back(_) = slot {
            self.slots[index] = Slot::Free;
            self.free.push(index);
        }
    }

    fn take_free(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            self.slots.len() - 1
        })
    }
}

/// What brings requests on their way.
pub(super) trait Carrier {
    /// Starts a request: its result if it is there at once, or its slot.
    fn start(&self, request: Box<Request>, waker: &Waker) -> Result<Finished, usize>;

    /// The result of the request in a slot, if it is there. Otherwise `waker` is woken when it is.
    fn collect(&self, index: usize, waker: &Waker) -> Option<Finished>;

    /// The task does not wait any more.
    fn abandon(&self, index: usize);
}

/// A request on its way and back. It starts with the first poll. If the future is dropped after that, the request goes on, and
/// its memory must stay.
#[derive(Debug)]
#[must_use = "a request starts when its future is awaited"]
pub(super) struct Transfer<C: Carrier> {
    carrier: C,
    stage: TransferStage,
}

#[derive(Debug)]
enum TransferStage {
    New(Box<Request>),
    /// On its way, in this slot.
    Sent(usize),
    Over,
}

impl<C: Carrier> Transfer<C> {
    pub(super) fn new(carrier: C, request: Box<Request>) -> Transfer<C> {
        Transfer {
            carrier,
            stage: TransferStage::New(request),
        }
    }
}

impl<C: Carrier + Unpin> Future for Transfer<C> {
    type Output = Finished;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Finished> {
        let waker = context.waker();
        let finished = match mem::replace(&mut self.stage, TransferStage::Over) {
            TransferStage::New(request) => self.carrier.start(request, waker),
            TransferStage::Sent(index) => self.carrier.collect(index, waker).ok_or(index),
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

impl<C: Carrier> Drop for Transfer<C> {
    fn drop(&mut self) {
        if let TransferStage::Sent(index) = self.stage {
            self.carrier.abandon(index);
        }
    }
}
