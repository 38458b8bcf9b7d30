//! The kernel as shuttle's scenarios see it. Fds, eventfds and epoll sets are the real ones; what a thread would sleep for is
//! shuttle's, so that nobody sleeps but where shuttle sees it, and time is what the waits say that they have waited.
#![forbid(unsafe_code)]

use crate::sync::lock;
use crate::sync::{Condvar, Mutex, thread};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

struct Kernel {
    /// Held between a look and the sleep that follows.
    looking: Mutex<()>,
    changed: Condvar,
    /// Not shuttle's: to read a clock is no step of its own.
    now_ns: AtomicI64,
    waits: AtomicU32,
}

/// After so many waits somebody else goes first. PCT would never ask another while one that is ahead finds something to look
/// at, such as an fd whose handler another thread has marked as removed and not yet taken out of the set.
const FAIR: u32 = 64;

/// The time when a run begins.
const BEGIN_NS: i64 = 1_000_000_000_000;

shuttle::lazy_static! {
    /// That of one run.
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

/// Waits for `look`, which does not block, to find something. For ever when `timeout_ns` is negative: shuttle reports a run in
/// which everybody waits so. A positive time passes at once when the other threads had a chance.
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
