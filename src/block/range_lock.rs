//! A lock on ranges of bytes.
//!
//! Used by [`super::write_order`], and by qcow2 images, in which a discard frees what an overlapping request uses. A ticket for
//! a range is granted when no earlier ticket overlaps it, so the oldest one is never kept waiting by newer ones. Shared
//! tickets do not wait for each other. A ticket is a future, which completes when it is granted; the range is free when the
//! ticket is dropped, granted or not.
//!
//! # Threads
//! Any thread may take, poll and drop tickets. No thread blocks, and wakers run with no lock held.
#![forbid(unsafe_code)]

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct RangeLock(Mutex<Tickets>);

#[derive(Debug, Default)]
struct Tickets {
    /// In the order of their numbers.
    list: Vec<Claim>,
    last_number: u64,
}

/// What the lock knows of a ticket.
#[derive(Debug)]
struct Claim {
    number: u64,
    range: Range<u64>,
    is_shared: bool,
    /// How many earlier tickets it waits for.
    blockers: usize,
    waker: Option<Waker>,
}

/// A range that is locked, or will be.
#[derive(Debug)]
#[must_use = "the range is free when this is dropped"]
pub(super) struct RangeTicket {
    lock: Arc<RangeLock>,
    number: u64,
}

impl RangeLock {
    /// Takes a ticket for `range`.
    pub(super) fn ticket(self: &Arc<RangeLock>, range: Range<u64>) -> RangeTicket {
        self.add(range, false)
    }

    /// Takes a ticket for `range` that others with shared tickets may hold as well.
    pub(super) fn shared_ticket(self: &Arc<RangeLock>, range: Range<u64>) -> RangeTicket {
        self.add(range, true)
    }

    fn add(self: &Arc<RangeLock>, range: Range<u64>, is_shared: bool) -> RangeTicket {
        let mut tickets = self.tickets();
        tickets.last_number += 1;
        let number = tickets.last_number;
        let mut claim = Claim {
            number,
            range,
            is_shared,
            blockers: 0,
            waker: None,
        };
        let earlier = tickets.list.iter();
        claim.blockers = earlier.filter(|other| claim.excludes(other)).count();
        tickets.list.push(claim);
        drop(tickets);
        RangeTicket {
            lock: Arc::clone(self),
            number,
        }
    }

    /// The list is consistent after every single operation on it.
    fn tickets(&self) -> MutexGuard<'_, Tickets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// Whether both cannot be held at once.
    fn excludes(&self, other: &Claim) -> bool {
        let overlap = self.range.start < other.range.end && other.range.start < self.range.end;
        overlap && !(self.is_shared && other.is_shared)
    }
}

impl Tickets {
    fn place(&self, number: u64) -> Option<usize> {
        let place = self
            .list
            .binary_search_by_key(&number, |claim| claim.number);
        place.ok()
    }

    /// Whether a ticket is granted. If not, wakes `waker` when it is.
    fn is_granted(&mut self, number: u64, waker: &Waker) -> bool {
        let place = self.place(number);
        let claim = place.and_then(|place| self.list.get_mut(place));
        let Some(claim) = claim.filter(|claim| claim.blockers > 0) else {
            return true;
        };
        claim.waker = Some(waker.clone());
        false
    }

    /// Removes a ticket; the wakers of those that are granted by that.
    fn remove(&mut self, number: u64) -> Vec<Waker> {
        let Some(place) = self.place(number) else {
            return Vec::new();
        };
        let gone = self.list.remove(place);
        let later = self.list[place..].iter_mut();
        let blocked = later.filter(|claim| claim.excludes(&gone));
        let granted = blocked.filter_map(|claim| {
            claim.blockers -= 1;
            (claim.blockers == 0).then(|| claim.waker.take())
        });
        granted.flatten().collect()
    }
}

impl Future for RangeTicket {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let is_granted = self.lock.tickets().is_granted(self.number, context.waker());
        match is_granted {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl Drop for RangeTicket {
    fn drop(&mut self) {
        let granted = self.lock.tickets().remove(self.number);
        granted.into_iter().for_each(Waker::wake);
    }
}
