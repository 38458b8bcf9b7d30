//! How often a queue was kicked and has called, countable from any thread.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

/// Written by the queue's thread alone, so counting is a load and a store.
#[derive(Debug, Default)]
pub(super) struct Notifications {
    kicks: AtomicU64,
    calls: AtomicU64,
}

impl Notifications {
    pub(super) fn count_kick(&self) {
        count(&self.kicks);
    }

    /// Goes before the call, so that a reader who is called finds it counted.
    pub(super) fn count_call(&self) {
        count(&self.calls);
    }

    pub(super) fn kicks(&self) -> u64 {
        self.kicks.load(Ordering::Relaxed)
    }

    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

fn count(counter: &AtomicU64) {
    let before = counter.load(Ordering::Relaxed);
    counter.store(before.wrapping_add(1), Ordering::Relaxed);
}
