//! What a mirror job shares with the requests to its source: what is not copied yet, and writes that the job makes to the target while
//! the guest waits.
//!
//! # Threads
//! Requests to the source use it on the homes of their queues, the job on its own. No waker is called with the lock held.
//!
//! # Invariants
//! 1. A write to the source is marked dirty, or is in the target, before it is answered.
#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::mem;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::Result;
use crate::block::dirty_bitmap::bits::DirtyBits;
use crate::block::io_buffer::IoBuffer;
use crate::block::range_lock::RangeLock;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct MirrorState {
    /// What is in the source and maybe not in the target.
    pub(super) dirty: DirtyBits,
    /// Writes whose places overlap are handed over one after the other, as they were made.
    pub(super) order: Arc<RangeLock>,
    handing: Mutex<Handing>,
}

#[derive(Debug, Default)]
struct Handing {
    /// Writes are handed to the job. Otherwise they are marked.
    is_on: bool,
    /// The job takes none any more.
    is_over: bool,
    /// The job has copied everything once.
    is_ready: bool,
    queue: Vec<HandedWrite>,
    waker: Option<Waker>,
}

/// What is to be in the target.
#[derive(Debug)]
pub(super) enum MirrorContent {
    Data(IoBuffer),
    Zeroes { unmap: bool },
}

/// A write that the source has, for the target. Its maker goes on when `answer` is dropped.
#[derive(Debug)]
pub(super) struct HandedWrite {
    pub(super) range: Range<u64>,
    pub(super) content: MirrorContent,
    pub(super) answer: WriteAnswer,
}

/// Lets the maker of a write go on when it is dropped.
#[derive(Debug)]
pub(super) struct WriteAnswer(Arc<WriteHandover>);

/// A write's maker waits here.
#[derive(Debug, Default)]
pub(super) struct WriteHandover(Mutex<HandoverState>);

#[derive(Debug, Default)]
struct HandoverState {
    outcome: Option<HandoverEnd>,
    waker: Option<Waker>,
}

/// How a wait for the job has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HandoverEnd {
    /// The job has done with it, well or not.
    Answered,
    /// The maker may not wait any longer.
    Released,
}

impl MirrorState {
    /// Nothing is dirty.
    ///
    /// # Errors
    /// There are too many granules.
    pub(super) fn new(length: u64, granularity: u64) -> Result<MirrorState> {
        Ok(MirrorState {
            dirty: DirtyBits::new(length, granularity)?,
            order: Arc::default(),
            handing: Mutex::default(),
        })
    }

    /// The range with the granules at its ends. The last one ends with the disk.
    pub(super) fn granules(&self, range: &Range<u64>) -> Range<u64> {
        let unit = self.dirty.granularity();
        let end = range.end.next_multiple_of(unit);
        range.start / unit * unit..end.min(self.dirty.length())
    }

    /// Whether writes are handed to the job.
    pub(super) fn is_handing(&self) -> bool {
        self.lock().is_on
    }

    /// From now on, writes are handed to the job, if it still takes them.
    pub(super) fn start_handing(&self) {
        let mut handing = self.lock();
        handing.is_on = !handing.is_over;
    }

    /// From now on, writes are marked, and those that the job has not taken yet as well.
    pub(super) fn end_handing(&self) {
        let mut handing = self.lock();
        handing.is_on = false;
        handing.is_over = true;
        let queue = mem::take(&mut handing.queue);
        for write in &queue {
            self.dirty.set(write.range.clone());
        }
        drop(handing);
        drop(queue);
    }

    /// Hands a write to the job. `None` if it was marked instead.
    pub(super) fn hand(
        &self,
        range: Range<u64>,
        content: MirrorContent,
    ) -> Option<Arc<WriteHandover>> {
        let mut handing = self.lock();
        if !handing.is_on {
            self.dirty.set(range);
            return None;
        }
        let handover: Arc<WriteHandover> = Arc::default();
        handing.queue.push(HandedWrite {
            range,
            content,
            answer: WriteAnswer(Arc::clone(&handover)),
        });
        let waker = handing.waker.take();
        drop(handing);
        waker.into_iter().for_each(Waker::wake);
        Some(handover)
    }

    /// Takes what was handed over. The task of `context` is woken when there is more.
    pub(super) fn take_handed(&self, context: &Context<'_>) -> Vec<HandedWrite> {
        let mut handing = self.lock();
        let before = handing.waker.replace(context.waker().clone());
        let queue = mem::take(&mut handing.queue);
        drop(handing);
        drop(before);
        queue
    }

    /// The job has copied everything once.
    pub(super) fn become_ready(&self) {
        self.lock().is_ready = true;
    }

    /// Whether the target has what the source has, and gets what is written at the same time.
    pub(super) fn is_actively_synced(&self) -> bool {
        let handing = self.lock();
        handing.is_on && handing.is_ready && self.dirty.count() == 0
    }

    /// The state is consistent after every single operation on it.
    fn lock(&self) -> MutexGuard<'_, Handing> {
        self.handing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WriteHandover {
    /// Waits until the job has done with the write, or until this is released.
    pub(super) async fn ended(&self) -> HandoverEnd {
        poll_fn(|context| {
            let mut state = self.lock();
            if let Some(outcome) = state.outcome {
                return Poll::Ready(outcome);
            }
            let before = state.waker.replace(context.waker().clone());
            drop(state);
            drop(before);
            Poll::Pending
        })
        .await
    }

    /// Lets the maker go on, although the job has not done with it.
    pub(super) fn release(&self) {
        self.end(HandoverEnd::Released);
    }

    fn end(&self, outcome: HandoverEnd) {
        let mut state = self.lock();
        state.outcome.get_or_insert(outcome);
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    /// The state is consistent after every single operation on it.
    fn lock(&self) -> MutexGuard<'_, HandoverState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for WriteAnswer {
    fn drop(&mut self) {
        self.0.end(HandoverEnd::Answered);
    }
}
