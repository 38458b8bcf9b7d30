//! The kernel in shuttle's scenarios. Fds, eventfds and epoll sets are real. Waits are shuttle's, so that a thread sleeps only
//! where shuttle sees it. Time does not pass by itself: a wait that ends by its timeout advances the clocks by that.
#![forbid(unsafe_code)]

use crate::sync::lock;
use crate::sync::{Condvar, Mutex, thread};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

struct Kernel {
    /// Held between a look and the sleep that follows.
    looking: Mutex<()>,
    changed: Condvar,
    /// Not shuttle's atomic: reading a clock is no scheduling point.
    now_ns: AtomicI64,
    waits: AtomicU32,
}

/// After so many waits of all threads, another thread goes first. PCT would let the first thread run for ever while that finds
/// something ready, such as an fd whose handler another thread has marked as removed but not yet taken out of the set.
const FAIR: u32 = 64;

/// The time when a run begins.
const BEGIN_NS: i64 = 1_000_000_000_000;

shuttle::lazy_static! {
    /// The kernel of one run.
    static ref KERNEL: Kernel = Kernel {
        looking: Mutex::new(()),
        changed: Condvar::new(),
        now_ns: AtomicI64::new(BEGIN_NS),
        waits: AtomicU32::new(0),
    };
}

/// Something may have become ready.
pub(crate) fn change() {
    let looking = lock(&KERNEL.looking);
    KERNEL.changed.notify_all();
    drop(looking);
}

/// Every clock's time.
pub(crate) fn now_ns() -> i64 {
    KERNEL.now_ns.load(Ordering::Relaxed)
}

/// Waits until `look`, which does not block, finds something; for ever when `timeout_ns` is negative. shuttle reports a run in
/// which all threads wait for ever. A positive timeout is over after the other threads had a turn.
pub(crate) fn wait(timeout_ns: i64, mut look: impl FnMut() -> usize) -> usize {
    if KERNEL.waits.fetch_add(1, Ordering::Relaxed) % FAIR == FAIR - 1 {
        thread::yield_now();
    }
    let mut looking = lock(&KERNEL.looking);
    loop {
        let count = look();
        if count > 0 || timeout_ns == 0 {
            return count;
        }
        if timeout_ns > 0 {
            drop(looking);
            return wait_out(timeout_ns, look);
        }
        let slept = KERNEL.changed.wait(looking);
        looking = slept.unwrap_or_else(crate::sync::PoisonError::into_inner);
    }
}

fn wait_out(timeout_ns: i64, mut look: impl FnMut() -> usize) -> usize {
    thread::yield_now();
    let looking = lock(&KERNEL.looking);
    let count = look();
    if count == 0 {
        KERNEL.now_ns.fetch_add(timeout_ns, Ordering::Relaxed);
    }
    drop(looking);
    count
}
