//! What is asked of a bottom half, and by whom.
//!
//! Two words: the home changes `held` with plain stores, everybody else `asked` with read-modify-write operations. The home
//! looks at `asked` where somebody may have been faster, and takes over what it finds when it takes the node from the list
//! of the others, or when the node's turn comes.
//!
//! # Invariants
//! 1. `held` is written by the driving thread only, while it holds the claim of its queues.
//! 2. `asked` has `CANCELLED` when what was held at that time is void; what is asked beside it came later.
//! 3. Whoever sets `QUEUED` in `asked` pushes the node to the list of the others; whoever sets it in `held` puts it into the
//!    home's queue.
#![deny(unsafe_code)] // the model needs raw nodes

use crate::sync::{AtomicU32, Ordering};

const QUEUED: u32 = 1;
const SCHEDULED: u32 = 2;
/// Scheduled to run when the context iterates anyway.
const IDLE: u32 = 4;
/// Scheduled to run at once; outweighs `IDLE`.
const URGENT: u32 = 8;
/// The handle is gone: nobody asks any more.
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

/// What somebody who is not the home must do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BhAction {
    /// Push the node to the list of the others.
    Push,
    /// The node is on that list; make the home look.
    Kick,
    /// Somebody else does what is needed.
    None,
}

/// What a node's turn is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BhTurn {
    pub(crate) calls: bool,
    /// The call counts as progress.
    pub(crate) urgent: bool,
}

/// See the module.
pub(crate) struct Flags {
    asked: AtomicU32,
    held: AtomicU32,
}

/// For everybody.
impl Flags {
    pub(crate) fn new() -> Flags {
        Flags {
            asked: AtomicU32::new(0),
            held: AtomicU32::new(0),
        }
    }

    /// Marks a fresh node that runs once and has no handle; it must be pushed to the list of the others.
    pub(crate) fn ask_once(&self) {
        let once = QUEUED | DELETED | Urgency::Now.bits();
        self.asked.store(once, Ordering::Relaxed);
    }

    /// Schedules.
    #[must_use]
    pub(crate) fn ask(&self, urgency: Urgency) -> BhAction {
        let bits = urgency.bits();
        let before = self.asked.fetch_or(bits | QUEUED, Ordering::AcqRel);
        if before & QUEUED == 0 {
            BhAction::Push
        } else if before & bits != bits {
            BhAction::Kick
        } else {
            BhAction::None
        }
    }

    /// Takes back what was asked and what is held.
    pub(crate) fn cancel(&self) {
        self.change_asked(|asked| (asked & !REQUESTS) | CANCELLED);
    }

    /// Takes everything back, for good.
    #[must_use]
    pub(crate) fn delete(&self) -> BhAction {
        let before = self.change_asked(|asked| (asked & !REQUESTS) | CANCELLED | DELETED | QUEUED);
        if before & QUEUED == 0 {
            BhAction::Push
        } else {
            BhAction::Kick
        }
    }

    /// The list of the others was closed: true when the node, whose handle is gone, is the caller's to free.
    #[must_use]
    pub(crate) fn refuse(&self) -> bool {
        self.asked.fetch_and(!QUEUED, Ordering::AcqRel) & DELETED != 0
    }

    fn change_asked(&self, change: impl Fn(u32) -> u32) -> u32 {
        let mut before = self.asked.load(Ordering::Relaxed);
        loop {
            match self.asked.compare_exchange_weak(
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
    fn held(&self) -> u32 {
        self.held.load(Ordering::Relaxed)
    }

    #[inline]
    fn hold(&self, held: u32) {
        self.held.store(held, Ordering::Relaxed);
    }

    /// True when the node waits to run.
    pub(crate) fn is_scheduled(&self) -> bool {
        self.held() & SCHEDULED != 0
    }

    /// True when the node wants an iteration at once, to run or to be freed.
    pub(crate) fn is_urgent(&self) -> bool {
        self.held() & (URGENT | DELETED) != 0
    }

    /// Takes over what others have asked for, but for their place on the list.
    #[inline]
    fn merge(&self, which: u32) {
        if self.asked.load(Ordering::Acquire) & which != 0 {
            let asked = self.asked.fetch_and(!which, Ordering::AcqRel) & which;
            let kept = if asked & CANCELLED != 0 {
                !REQUESTS
            } else {
                !0
            };
            self.hold((self.held() & kept) | (asked & REQUESTS));
        }
    }

    /// Schedules; true when the node must be put into the queue.
    #[inline]
    #[must_use]
    pub(crate) fn schedule(&self, urgency: Urgency) -> bool {
        self.merge(CANCELLED);
        let before = self.held();
        self.hold(before | urgency.bits() | QUEUED);
        before & QUEUED == 0
    }

    /// Takes back what was asked and what is held.
    pub(crate) fn cancel_at_home(&self) {
        self.merge(REQUESTS | CANCELLED);
        self.hold(self.held() & !REQUESTS);
    }

    /// Takes everything back, for good; true when the node must be put into the queue.
    #[must_use]
    pub(crate) fn discard(&self) -> bool {
        self.cancel_at_home();
        let before = self.held();
        self.hold(before | DELETED | QUEUED);
        before & QUEUED == 0
    }

    /// Marks a fresh node that runs once and has no handle; it must be put into the queue.
    pub(crate) fn schedule_once(&self) {
        self.hold(QUEUED | DELETED | Urgency::Now.bits());
    }

    /// The node was taken from the list of the others; true when it must be put into the queue.
    #[must_use]
    pub(crate) fn take_over(&self) -> bool {
        let mut asked = self.asked.load(Ordering::Acquire);
        if asked & DELETED != 0 {
            // Nobody asks any more, so a plain store loses nothing.
            self.asked.store(DELETED, Ordering::Relaxed);
        } else {
            let taken = QUEUED | REQUESTS | CANCELLED;
            asked = self.asked.fetch_and(!taken, Ordering::AcqRel);
        }
        let kept = if asked & CANCELLED != 0 {
            !REQUESTS
        } else {
            !0
        };
        let held = (self.held() & kept) | (asked & (REQUESTS | DELETED));
        if held & (REQUESTS | DELETED) == 0 || held & QUEUED != 0 {
            self.hold(held);
            return false;
        }
        self.hold(held | QUEUED);
        true
    }

    /// The node was taken from the queue.
    #[inline]
    pub(crate) fn begin(&self) -> BhTurn {
        self.merge(REQUESTS | CANCELLED);
        let held = self.held();
        self.hold(held & !(QUEUED | REQUESTS));
        BhTurn {
            calls: held & (SCHEDULED | PANICKED) == SCHEDULED,
            urgent: held & URGENT != 0,
        }
    }

    /// True when the node is on no list and nobody asks any more.
    #[inline]
    pub(crate) fn is_done(&self) -> bool {
        self.held() & (DELETED | QUEUED) == DELETED
            && self.asked.load(Ordering::Acquire) & QUEUED == 0
    }

    pub(crate) fn panicked(&self) {
        self.hold(self.held() | PANICKED);
    }

    /// The node, which was taken from the queue, leaves this home with what it has to do; true when it must be pushed to the
    /// list of the others.
    #[must_use]
    pub(crate) fn park(&self) -> bool {
        let held = self.held();
        self.hold(held & !(QUEUED | REQUESTS));
        let place = if held & (REQUESTS | DELETED) == 0 {
            0
        } else {
            QUEUED
        };
        let before = self.change_asked(|asked| {
            let valid = if asked & CANCELLED == 0 { REQUESTS } else { 0 };
            asked | (held & valid) | place
        });
        place != 0 && before & QUEUED == 0
    }

    /// The context ends, and the node was taken from the closed list of the others. True when it is to be freed; if not, its
    /// handle may do so from now on, so the home must not look at it any more.
    #[must_use]
    pub(crate) fn end(&self) -> bool {
        let held = self.held();
        self.hold(held & !(QUEUED | REQUESTS));
        let taken = QUEUED | REQUESTS | CANCELLED;
        let asked = self.asked.fetch_and(!taken, Ordering::AcqRel);
        (held | asked) & DELETED != 0
    }

    /// The context ends, and the node was taken from the queue: it does nothing more. True when it is to be freed.
    #[must_use]
    pub(crate) fn release(&self) -> bool {
        self.cancel_at_home();
        self.hold(self.held() & !QUEUED);
        self.is_done()
    }
}

#[cfg(all(test, loom))]
mod model;
#[cfg(all(test, not(loom)))]
mod tests;
