//! A timer in memory: its callback, and its place in the queue of its clock.
#![allow(unsafe_code)] // shares a callback that one thread at a time calls

use super::tenant::Tenant;
use crate::clock::Clock;
use crate::deadline::{Item, NOWHERE};
use crate::panic_boundary;
use crate::sync::{AtomicBool, AtomicUsize, Ordering};
use std::fmt;
use std::sync::Arc;

/// A timer in memory. Its place is guarded by the timer lock of the reactor its AioContext is on.
pub(crate) struct TimerNode {
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) clock: Clock,
    place: AtomicUsize,
    dead: AtomicBool,
    callback: Box<dyn Fn() + Send>,
}

// SAFETY: only the driving thread calls the callback; the rest is atomic.
unsafe impl Sync for TimerNode {}

impl Item for Arc<TimerNode> {
    fn set_place(&self, place: usize) {
        self.place.store(place, Ordering::Relaxed);
    }
    fn place(&self) -> usize {
        self.place.load(Ordering::Relaxed)
    }
}

impl TimerNode {
    pub(crate) fn new(
        tenant: Arc<Tenant>,
        clock: Clock,
        callback: Box<dyn Fn() + Send>,
    ) -> TimerNode {
        TimerNode {
            tenant,
            clock,
            place: AtomicUsize::new(NOWHERE),
            dead: AtomicBool::new(false),
            callback,
        }
    }

    /// True from arming until the callback begins.
    pub(crate) fn is_armed(&self) -> bool {
        self.place.load(Ordering::Relaxed) != NOWHERE
    }

    /// The callback is not called again.
    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::Release);
    }

    /// Calls the callback unless the timer was dropped. On the driving thread.
    pub(crate) fn fire(&self) {
        if self.dead.load(Ordering::Acquire) {
            return;
        }
        let call = || panic_boundary::guard(&self, &self.callback);
        if self.tenant.during_call(call).is_err() {
            self.dead.store(true, Ordering::Release);
        }
    }
}

impl fmt::Display for TimerNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "timer of clock {:?}", self.clock)
    }
}
