//! The task of a job: a future that its AioContext polls in a bottom half.
//!
//! The future is `Send`, and its wakes only schedule the bottom half. So the AioContext may go to another context between two polls,
//! and the job with it.
//!
//! # Threads
//! Any thread starts a future. It is polled and dropped on the home.
//!
//! # Invariants
//! 1. No lock is held while the future is polled or dropped.
#![forbid(unsafe_code)]

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Wake, Waker};

use gsource::{AioContext, Bh};

/// Work of a job, or one of its steps.
pub(super) type JobFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// See the head of this file.
pub(super) struct JobRunner {
    bh: Bh,
    future: Mutex<Option<JobFuture>>,
}

impl JobRunner {
    pub(super) fn new(aio: &AioContext) -> Arc<JobRunner> {
        Arc::new_cyclic(|this: &Weak<JobRunner>| {
            let this = Weak::clone(this);
            let run = move || {
                if let Some(runner) = this.upgrade() {
                    runner.poll();
                }
            };
            JobRunner {
                bh: aio.bh("job", run),
                future: Mutex::new(None),
            }
        })
    }

    /// Begins to poll `future`. There is one at a time.
    pub(super) fn start(&self, future: JobFuture) {
        let before = self.lock().replace(future);
        debug_assert!(before.is_none(), "a job does one thing at a time");
        self.bh.schedule();
    }

    fn poll(self: Arc<Self>) {
        let Some(mut future) = self.lock().take() else {
            return;
        };
        let waker = Waker::from(Arc::clone(&self));
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        if polled.is_pending() {
            *self.lock() = Some(future);
        }
    }

    /// The place is consistent after every single operation on it.
    fn lock(&self) -> MutexGuard<'_, Option<JobFuture>> {
        self.future.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for JobRunner {
    fn wake(self: Arc<Self>) {
        self.bh.schedule();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.bh.schedule();
    }
}

impl fmt::Debug for JobRunner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobRunner").finish_non_exhaustive()
    }
}
