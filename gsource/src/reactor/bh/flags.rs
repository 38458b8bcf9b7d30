//! What is requested of a bottom half: by its home, and by other threads.
//!
//! There are two words. The home changes `local` with plain stores; other threads change `remote` with read-modify-write
//! operations. The home merges `remote` into `local` when it takes the node from the remote list (the tenant's list of what other
//! threads have scheduled), when the node's turn comes, and before a change that another thread may have cancelled.
//!
//! # Invariants
//! 1. Only the driving thread writes `local`, while it has the lock of its queues.
//! 2. `CANCELLED` in `remote` voids the requests in `local`. The requests beside it in `remote` came later and are valid.
//! 3. The thread that sets `QUEUED` in `remote` pushes the node to the remote list. The home puts it into its own queue when it
//!    sets `QUEUED` in `local`.
#![deny(unsafe_code)] // the model needs raw nodes

use crate::sync::{AtomicU32, Ordering};

const QUEUED: u32 = 1;
const SCHEDULED: u32 = 2;
/// Scheduled to run when the context iterates anyway.
const IDLE: u32 = 4;
/// Scheduled to run at once; outweighs `IDLE`.
const URGENT: u32 = 8;
/// The handle is gone, so no other thread requests anything any more.
const DELETED: u32 = 16;
/// See invariant 2.
const CANCELLED: u32 = 32;
/// The callback panicked and is called no more.
const PANICKED: u32 = 64;
const REQUESTS: u32 = SCHEDULED | IDLE | URGENT;

/// When the home looks at what was scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// In the next iteration. The home does not block before.
    Now,
    /// When there is an iteration anyway. The home looks before it blocks, and again if it blocks already.
    Idle,
}

impl Urgency {
    fn bits(self) -> u32 {
        match self {
            Urgency::Now => SCHEDULED | URGENT,
            Urgency::Idle => SCHEDULED | IDLE,
        }
    }
}

/// What a thread that is not the home must do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BhAction {
    /// Push the node to the remote list.
    Push,
    /// The node is on that list. Make the home look.
    Kick,
    /// Nothing: another thread does what is needed.
    None,
}

/// What happens in a node's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BhTurn {
    pub(crate) calls: bool,
    /// The call counts as progress.
    pub(crate) urgent: bool,
}

/// See the module.
pub(crate) struct Flags {
    remote: AtomicU32,
    local: AtomicU32,
}

/// For threads that are not the home.
impl Flags {
    pub(crate) fn new() -> Flags {
        Flags {
            remote: AtomicU32::new(0),
            local: AtomicU32::new(0),
        }
    }

    /// Marks a fresh node that runs once and has no handle. The caller pushes it to the remote list.
    pub(crate) fn request_once(&self) {
        let once = QUEUED | DELETED | Urgency::Now.bits();
        self.remote.store(once, Ordering::Relaxed);
    }

    /// Schedules.
    #[must_use]
    pub(crate) fn request(&self, urgency: Urgency) -> BhAction {
        let bits = urgency.bits();
        let before = self.remote.fetch_or(bits | QUEUED, Ordering::AcqRel);
        if before & QUEUED == 0 {
            BhAction::Push
        } else if before & bits != bits {
            BhAction::Kick
        } else {
            BhAction::None
        }
    }

    /// Cancels all requests.
    pub(crate) fn cancel(&self) {
        self.change_remote(|remote| (remote & !REQUESTS) | CANCELLED);
    }

    /// Cancels all requests, and marks the handle as gone.
    #[must_use]
    pub(crate) fn delete(&self) -> BhAction {
        let before =
            self.change_remote(|remote| (remote & !REQUESTS) | CANCELLED | DELETED | QUEUED);
        if before & QUEUED == 0 {
            BhAction::Push
        } else {
            BhAction::Kick
        }
    }

    /// The remote list is closed. True if the handle is gone too: the caller frees the node.
    #[must_use]
    pub(crate) fn refuse(&self) -> bool {
        self.remote.fetch_and(!QUEUED, Ordering::AcqRel) & DELETED != 0
    }

    fn change_remote(&self, change: impl Fn(u32) -> u32) -> u32 {
        let mut before = self.remote.load(Ordering::Relaxed);
        loop {
            match self.remote.compare_exchange_weak(
                before,
                change(before),
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return before,
                Err(seen) => before = seen,
            }
        }
    }
}

/// For the home.
impl Flags {
    #[inline]
    fn local(&self) -> u32 {
        self.local.load(Ordering::Relaxed)
    }

    #[inline]
    fn set_local(&self, local: u32) {
        self.local.store(local, Ordering::Relaxed);
    }

    /// True when the node waits to run.
    pub(crate) fn is_scheduled(&self) -> bool {
        self.local() & SCHEDULED != 0
    }

    /// True when the node wants an iteration at once, to run or to be freed.
    pub(crate) fn is_urgent(&self) -> bool {
        self.local() & (URGENT | DELETED) != 0
    }

    /// True when the node has no handle: it was deleted, or runs once.
    pub(crate) fn is_deleted(&self) -> bool {
        self.local() & DELETED != 0
    }

    /// Merges the requests of other threads into `local`. The node stays on the remote list.
    #[inline]
    fn merge(&self, which: u32) {
        if self.remote.load(Ordering::Acquire) & which != 0 {
            let remote = self.remote.fetch_and(!which, Ordering::AcqRel) & which;
            let kept = if remote & CANCELLED != 0 {
                !REQUESTS
            } else {
                !0
            };
            self.set_local((self.local() & kept) | (remote & REQUESTS));
        }
    }

    /// Schedules; true when the node must be put into the queue.
    #[inline]
    #[must_use]
    pub(crate) fn schedule(&self, urgency: Urgency) -> bool {
        self.merge(CANCELLED);
        let before = self.local();
        self.set_local(before | urgency.bits() | QUEUED);
        before & QUEUED == 0
    }

    /// Cancels all requests.
    pub(crate) fn cancel_at_home(&self) {
        self.merge(REQUESTS | CANCELLED);
        self.set_local(self.local() & !REQUESTS);
    }

    /// Cancels all requests, and marks the handle as gone. True when the node must be put into the queue.
    #[must_use]
    pub(crate) fn discard(&self) -> bool {
        self.cancel_at_home();
        let before = self.local();
        self.set_local(before | DELETED | QUEUED);
        before & QUEUED == 0
    }

    /// Marks a fresh node that runs once and has no handle. The caller puts it into the queue.
    pub(crate) fn schedule_once(&self) {
        self.set_local(QUEUED | DELETED | Urgency::Now.bits());
    }

    /// The node was taken from the remote list. True when it must be put into the queue.
    #[must_use]
    pub(crate) fn take_over(&self) -> bool {
        let mut remote = self.remote.load(Ordering::Acquire);
        if remote & DELETED != 0 {
            // No other thread changes the word any more, so a plain store loses nothing.
            self.remote.store(DELETED, Ordering::Relaxed);
        } else {
            let taken = QUEUED | REQUESTS | CANCELLED;
            remote = self.remote.fetch_and(!taken, Ordering::AcqRel);
        }
        let kept = if remote & CANCELLED != 0 {
            !REQUESTS
        } else {
            !0
        };
        let local = (self.local() & kept) | (remote & (REQUESTS | DELETED));
        if local & (REQUESTS | DELETED) == 0 || local & QUEUED != 0 {
            self.set_local(local);
            return false;
        }
        self.set_local(local | QUEUED);
        true
    }

    /// The node was taken from the queue.
    #[inline]
    pub(crate) fn begin(&self) -> BhTurn {
        self.merge(REQUESTS | CANCELLED);
        let local = self.local();
        self.set_local(local & !(QUEUED | REQUESTS));
        BhTurn {
            calls: local & (SCHEDULED | PANICKED) == SCHEDULED,
            urgent: local & URGENT != 0,
        }
    }

    /// True when the node is on no list and its handle is gone.
    #[inline]
    pub(crate) fn is_done(&self) -> bool {
        self.local() & (DELETED | QUEUED) == DELETED
            && self.remote.load(Ordering::Acquire) & QUEUED == 0
    }

    pub(crate) fn panicked(&self) {
        self.set_local(self.local() | PANICKED);
    }

    /// The node was taken from the queue because its tenant moves. True when it must be pushed to the remote list, with its
    /// requests, for the next home.
    #[must_use]
    pub(crate) fn park(&self) -> bool {
        let local = self.local();
        self.set_local(local & !(QUEUED | REQUESTS));
        let place = if local & (REQUESTS | DELETED) == 0 {
            0
        } else {
            QUEUED
        };
        let before = self.change_remote(|remote| {
            let valid = if remote & CANCELLED == 0 { REQUESTS } else { 0 };
            remote | (local & valid) | place
        });
        place != 0 && before & QUEUED == 0
    }

    /// The tenant ends, and the node was taken from the closed remote list. True when the caller frees it. If not, its handle may
    /// free it from now on, so the home must not use it any more.
    #[must_use]
    pub(crate) fn end(&self) -> bool {
        let local = self.local();
        self.set_local(local & !(QUEUED | REQUESTS));
        let taken = QUEUED | REQUESTS | CANCELLED;
        let remote = self.remote.fetch_and(!taken, Ordering::AcqRel);
        (local | remote) & DELETED != 0
    }

    /// The tenant ends, and the node was taken from the queue. It does not run any more. True when the caller frees it.
    #[must_use]
    pub(crate) fn release(&self) -> bool {
        self.cancel_at_home();
        self.set_local(self.local() & !QUEUED);
        self.is_done()
    }
}

#[cfg(all(test, loom))]
mod model;
#[cfg(all(test, not(loom)))]
mod tests;
