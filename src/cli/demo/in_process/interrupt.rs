//! The interrupt of a disk, which wakes its driver's thread.
#![forbid(unsafe_code)]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use qcontext::virtio::Signal;

/// How long a driver waits for a disk before it gives up.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct InProcessInterrupt {
    pending: AtomicBool,
    count: AtomicU32,
    driver: OnceLock<Thread>,
}

impl Signal for InProcessInterrupt {
    fn signal(&self) {
        self.pending.store(true, Ordering::Release);
        self.unpark();
    }
}

impl InProcessInterrupt {
    /// Makes interrupts wake the calling thread, unless they wake another one already.
    pub(super) fn wake_this_thread(&self) {
        let _ = self.driver.set(thread::current());
    }

    pub(super) fn unpark(&self) {
        if let Some(driver) = self.driver.get() {
            driver.unpark();
        }
    }

    /// How many interrupts the driver took.
    pub(super) fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits for the next interrupt. False if none came in time, or if `halted` is set.
    pub(super) fn wait(&self, halted: &AtomicBool) -> bool {
        let since = Instant::now();
        while !self.pending.swap(false, Ordering::Acquire) {
            let left = PATIENCE.saturating_sub(since.elapsed());
            if left.is_zero() || halted.load(Ordering::SeqCst) {
                return false;
            }
            thread::park_timeout(left);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        true
    }
}
