//! Worker threads for blocking jobs, with completions on the home thread.
//!
//! Each AioContext has a pool of its own. Jobs start in the order they came; a worker without work leaves after ten seconds.
//!
//! # Invariants
//! 1. A job's work is taken once, by a worker or by a cancellation, and whoever takes it posts the completion.
//! 2. The lock is not held while work, a completion or a destructor of one runs.
#![forbid(unsafe_code)]

use crate::aio::bh;
use crate::aio::{Core, lock};
use crate::{AioContext, Error, ErrorKind, Result};
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

const MAX_WORKERS: usize = 64;
const LINGER: Duration = Duration::from_secs(10);

type Work = Box<dyn FnOnce() -> i32 + Send>;
type Done = Box<dyn FnOnce(i32) + Send>;

/// The pool of an AioContext.
pub(crate) struct Pool {
    state: Mutex<State>,
    work: Condvar,
}

struct State {
    queue: VecDeque<Arc<Job>>,
    workers: usize,
    idle: usize,
    min: usize,
    max: usize,
}

struct Job {
    /// What is to be done; gone when it runs or was cancelled (invariant 1).
    parts: Mutex<Option<(Work, Done)>>,
    completed: AtomicBool,
    core: Weak<Core>,
}

/// A job given to [`AioContext::submit`].
pub struct PoolJob(Arc<Job>);

impl Pool {
    pub(crate) fn new() -> Arc<Pool> {
        let state = State {
            queue: VecDeque::new(),
            workers: 0,
            idle: 0,
            min: 0,
            max: MAX_WORKERS,
        };
        Arc::new(Pool {
            state: Mutex::new(state),
            work: Condvar::new(),
        })
    }

    fn submit(self: &Arc<Self>, job: Arc<Job>) -> Result<()> {
        let mut state = lock(&self.state);
        state.queue.push_back(job);
        if state.idle < state.queue.len() && state.workers < state.max {
            let pool = Arc::clone(self);
            let spawned = std::thread::Builder::new()
                .name("pool-worker".to_owned())
                .spawn(move || pool.serve());
            match spawned {
                Ok(_) => state.workers += 1,
                Err(error) if state.workers == 0 => {
                    let refused = state.queue.pop_back();
                    drop(state);
                    drop(refused);
                    return Err(Error::os("cannot start a worker thread", error));
                }
                // Those that there are will come to it.
                Err(_) => {}
            }
        }
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    fn serve(&self) {
        while let Some(job) = self.next() {
            job.run();
        }
    }

    /// The next job; `None` when this worker is to end.
    #[expect(
        clippy::significant_drop_tightening,
        reason = "the wait needs the lock"
    )]
    fn next(&self) -> Option<Arc<Job>> {
        let mut state = lock(&self.state);
        loop {
            if state.workers > state.max {
                state.workers -= 1;
                return None;
            }
            if let Some(job) = state.queue.pop_front() {
                return Some(job);
            }
            state.idle += 1;
            let (guard, waited) = self
                .work
                .wait_timeout(state, LINGER)
                .unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.idle -= 1;
            if waited.timed_out() && state.queue.is_empty() && state.workers > state.min {
                state.workers -= 1;
                return None;
            }
        }
    }

    /// Lets all workers end; jobs that wait are dropped.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        let dropped = std::mem::take(&mut state.queue);
        (state.min, state.max) = (0, 0);
        drop(state);
        drop(dropped);
        self.work.notify_all();
    }
}

impl Job {
    fn run(self: &Arc<Self>) {
        let parts = lock(&self.parts).take();
        if let Some((work, done)) = parts {
            let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or(-libc::EIO);
            self.complete(done, result);
        }
    }

    fn complete(self: &Arc<Self>, done: Done, result: i32) {
        let job = Arc::clone(self);
        // Without its context a completion is dropped uncalled.
        if let Some(core) = self.core.upgrade() {
            let complete = move || {
                done(result);
                job.completed.store(true, Ordering::Release);
            };
            bh::schedule_oneshot(&core, "pool completion", Box::new(complete));
        }
    }
}

impl PoolJob {
    /// Completes the job with `-ECANCELED`, if it has not begun; else it completes as it would have.
    pub fn cancel(&self) {
        let parts = lock(&self.0.parts).take();
        if let Some((work, done)) = parts {
            drop(work);
            self.0.complete(done, -libc::ECANCELED);
        }
    }

    /// True when the completion has run.
    pub fn is_complete(&self) -> bool {
        self.0.completed.load(Ordering::Acquire)
    }
}

impl fmt::Debug for PoolJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolJob")
            .field("completed", &self.is_complete())
            .finish()
    }
}

impl AioContext {
    /// Runs `work` on a worker thread, then `done` with its result on the home thread. When this context goes first, `done`
    /// is dropped uncalled.
    ///
    /// ```
    /// use gsource::{AioContext, Wait};
    /// let aio = AioContext::new()?;
    /// let job = aio.submit(|| 42, |result| assert_eq!(result, 42))?;
    /// while !job.is_complete() {
    ///     aio.poll(Wait::Block)?;
    /// }
    /// # Ok::<(), gsource::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Os` when there is no worker and none can be started.
    pub fn submit(
        &self,
        work: impl FnOnce() -> i32 + Send + 'static,
        done: impl FnOnce(i32) + Send + 'static,
    ) -> Result<PoolJob> {
        let parts: (Work, Done) = (Box::new(work), Box::new(done));
        let job = Arc::new(Job {
            parts: Mutex::new(Some(parts)),
            completed: AtomicBool::new(false),
            core: Arc::downgrade(self.core()),
        });
        self.core().pool().submit(Arc::clone(&job))?;
        Ok(PoolJob(job))
    }

    /// Changes how many workers stay and how many there may be; at first 0 and 64.
    ///
    /// # Errors
    /// `InvalidArgument` when `max` is 0 or below `min`.
    pub fn set_pool_limits(&self, min: usize, max: usize) -> Result<()> {
        if max == 0 || min > max {
            let message = "thread-pool-max must be positive and not below thread-pool-min";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let pool = self.core().pool();
        let mut state = lock(&pool.state);
        (state.min, state.max) = (min, max);
        drop(state);
        pool.work.notify_all();
        Ok(())
    }
}
