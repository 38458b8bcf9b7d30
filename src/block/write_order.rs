//! The order of writes to an image or a node whose blocks are larger than what is written.
//!
//! Used by the [way to a file](super::way::file), if direct I/O on it is coarser than a sector, and by a node while someone writes
//! [parts of its blocks](super::partial_write). A write that is not aligned is a *cycle*: read the blocks around it, change
//! them, write them back. Between the read and the write back no other write may reach those blocks, from whichever queue or
//! device, or it is lost. So a cycle locks its blocks. Other writes lock theirs only while there is a cycle; at other times they
//! are *straight* and cost two atomic additions, no lock.
//!
//! # Invariants
//! 1. While a cycle runs, no straight write does. A straight write is counted in `straight` before it looks at `cycles`, and a
//!    cycle is counted in `cycles` before it looks at `straight`. All four accesses are sequentially consistent, so at least
//!    one of the two sees the other: the write takes the lock instead, or the cycle waits until no straight write is left.
#![forbid(unsafe_code)]

use std::future::Future;
use std::mem;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::range_lock::{RangeLock, RangeTicket};

#[cfg(test)]
mod tests;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct WriteOrder {
    /// Straight writes under way.
    straight: AtomicUsize,
    /// Cycles that run or wait.
    cycles: AtomicUsize,
    /// Cycles that wait for the straight writes.
    waiting: Mutex<Vec<Waker>>,
    ranges: Arc<RangeLock>,
}

/// The place of a write in the order. It is a future, which completes when the write may begin. Drop it when the write has
/// ended.
#[derive(Debug)]
#[must_use = "other writes go on when this is dropped"]
pub(super) enum WriteTurn {
    /// An aligned write while there is no cycle.
    Straight(Arc<WriteOrder>),
    /// An aligned write while there are cycles.
    Locked(RangeTicket),
    /// A read-modify-write cycle.
    Cycle(Cycle),
}

/// A cycle that runs or waits.
#[derive(Debug)]
pub(super) struct Cycle {
    /// Dropped first: when the cycle is not counted any more, its blocks are free.
    ticket: RangeTicket,
    count: CycleCount,
}

#[derive(Debug)]
struct CycleCount(Arc<WriteOrder>);

impl WriteOrder {
    /// The turn of an aligned write to `range`.
    pub(super) fn aligned(self: &Arc<WriteOrder>, range: Range<u64>) -> WriteTurn {
        self.straight.fetch_add(1, Ordering::SeqCst);
        let straight = WriteTurn::Straight(Arc::clone(self));
        if self.cycles.load(Ordering::SeqCst) == 0 {
            return straight;
        }
        drop(straight);
        WriteTurn::Locked(self.ranges.ticket(range))
    }

    /// The turn of a write that reads, changes and writes `blocks`.
    pub(super) fn cycle(self: &Arc<WriteOrder>, blocks: Range<u64>) -> WriteTurn {
        self.cycles.fetch_add(1, Ordering::SeqCst);
        WriteTurn::Cycle(Cycle {
            count: CycleCount(Arc::clone(self)),
            ticket: self.ranges.ticket(blocks),
        })
    }

    fn is_free_of_straight(&self) -> bool {
        self.straight.load(Ordering::SeqCst) == 0
    }

    /// Whether no straight write is left. If one is, wakes `waker` when they have ended.
    fn poll_free_of_straight(&self, waker: &Waker) -> bool {
        if self.is_free_of_straight() {
            return true;
        }
        self.waiting().push(waker.clone());
        // The last one may have ended before the waker was there.
        self.is_free_of_straight()
    }

    fn end_straight(&self) {
        let is_last = self.straight.fetch_sub(1, Ordering::SeqCst) == 1;
        if is_last && self.cycles.load(Ordering::SeqCst) > 0 {
            let waiting = mem::take(&mut *self.waiting());
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Future for WriteTurn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match &mut *self {
            WriteTurn::Straight(_) => Poll::Ready(()),
            WriteTurn::Locked(ticket) => Pin::new(ticket).poll(context),
            WriteTurn::Cycle(cycle) => cycle.poll(context),
        }
    }
}

impl Cycle {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let order = &self.count.0;
        let is_granted = Pin::new(&mut self.ticket).poll(context).is_ready();
        match is_granted && order.poll_free_of_straight(context.waker()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl Drop for WriteTurn {
    fn drop(&mut self) {
        if let WriteTurn::Straight(order) = self {
            order.end_straight();
        }
    }
}

impl Drop for CycleCount {
    fn drop(&mut self) {
        self.0.cycles.fetch_sub(1, Ordering::SeqCst);
    }
}
