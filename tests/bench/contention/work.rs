//! What a device does beside moving data, and how it tells its driver that it is done.
#![allow(unsafe_code)] // clock_gettime(2) of the thread's own processor time

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use qcontext::virtio::{CallFd, Signal};

/// The devices of a rig that are at work, seen from within.
#[derive(Debug, Default)]
pub(crate) struct Crew {
    at_work: AtomicUsize,
    most: AtomicUsize,
}

impl Crew {
    /// The most devices that were at work at the same time.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    fn work(&self, time: Duration) {
        let at_work = self.at_work.fetch_add(1, Ordering::Relaxed) + 1;
        if at_work > self.most() {
            self.most.fetch_max(at_work, Ordering::Relaxed);
        }
        burn(time);
        self.at_work.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A queue's call: given once at the end of a dispatch, on the context's thread, it does the dispatch's work first.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) crew: Arc<Crew>,
    pub(crate) time: Duration,
    pub(crate) call: CallFd,
}

impl Signal for Worker {
    fn signal(&self) {
        self.crew.work(self.time);
        self.call.signal();
    }
}

/// Uses processor time. Not the clock's time, which goes on while the processor does something else.
fn burn(time: Duration) {
    if time.is_zero() {
        return;
    }
    let end = own_time() + time;
    while own_time() < end {
        std::hint::spin_loop();
    }
}

/// The processor time of the calling thread.
fn own_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the place is valid for the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}
