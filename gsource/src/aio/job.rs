//! Jobs: closures that a pool runs once, whose results come back to an AioContext.
//!
//! # Threads
//! Any thread submits and cancels. The work runs on a worker; what to do with its result runs on the home, in an iteration
//! that begins after the job was submitted, one at a time as bottom halves do.
//!
//! # Invariants
//! 1. The closures are in the stage. They are taken out under its lock, and run or dropped without it. The worker does so with
//!    the work of a job that it begins, the home with everything else.
//! 2. A job stands in its AioContext's table until the home has delivered it or the context has ended.
#![forbid(unsafe_code)]

use crate::aio::core::Core;
use crate::sync::Mutex;
use crate::sync::lock;
use crate::sync::{AtomicU64, Ordering};
use crate::{
    AioContext, Error, ErrorKind, Pool, PoolLimits, Resource, Result, Work, panic_boundary,
};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::mem;
use std::sync::{Arc, Weak};

/// A submitted job. Dropping the handle changes nothing.
pub struct Job(Arc<dyn AnyJob>);

/// The jobs of an AioContext that have not been delivered.
#[derive(Default)]
pub(crate) struct Jobs {
    next: AtomicU64,
    live: Mutex<BTreeMap<u64, Arc<dyn AnyJob>>>,
}

trait AnyJob: Work {
    /// True when the job was still queued.
    fn cancel(&self) -> bool;
    /// On the home: calls back.
    fn deliver(&self);
    /// On the home: drops what there is, uncalled.
    fn abandon(&self);
}

enum JobStage<W, D, T> {
    Queued(W, D),
    Running(D),
    Finished(D, Result<T>),
    /// It will not run.
    Unrun(W, D, Error),
    /// Delivered or abandoned.
    Over,
}

struct JobState<W, D, T> {
    core: Weak<Core>,
    id: u64,
    pool: Pool,
    stage: Mutex<JobStage<W, D, T>>,
}

impl AioContext {
    /// Runs `work` on a worker of this context's pool, then `done` with the result on the context's home, in an iteration.
    /// The result is an error when the work panicked (`Panicked`), the job was cancelled before it began (`Cancelled`), or
    /// no worker could be started.
    ///
    /// The context may move meanwhile. When it is torn down, what is queued is dropped and what runs is finished; `done` is
    /// dropped uncalled on the home.
    ///
    /// ```
    /// use gsource::{AioContext, ErrorKind, PoolLimits, Wait};
    /// let aio = AioContext::new()?;
    /// let (send, answers) = std::sync::mpsc::channel();
    /// let failed = send.clone();
    /// aio.submit(|| panic!("no"), move |result: gsource::Result<()>| {
    ///     failed.send(result.unwrap_err().kind()).unwrap();
    /// });
    /// while !aio.poll(Wait::Block)? {}
    /// assert_eq!(answers.recv().unwrap(), ErrorKind::Panicked);
    /// # Ok::<(), gsource::Error>(())
    /// ```
    pub fn submit<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        done: impl FnOnce(Result<T>) + Send + 'static,
    ) -> Job {
        let pool = self.pool();
        let job = Arc::new(JobState {
            core: Arc::downgrade(self.core()),
            id: self.core().jobs.next.fetch_add(1, Ordering::Relaxed),
            pool: pool.clone(),
            stage: Mutex::new(JobStage::Queued(work, done)),
        });
        let any: Arc<dyn AnyJob> = Arc::<JobState<_, _, T>>::clone(&job);
        lock(&self.core().jobs.live).insert(job.id, Arc::clone(&any));
        let queued: Arc<dyn Work> = job;
        pool.enqueue(&queued, 1);
        Job(any)
    }
}

impl AioContext {
    /// The pool of the reactor this context is on now.
    pub fn pool(&self) -> Pool {
        match self.reactor() {
            Ok(reactor) => reactor.pool().clone(),
            Err(_) => self.core().private.pool().clone(),
        }
    }

    /// Changes how many workers this context has while it is attached nowhere; on a home the limits are the home's.
    ///
    /// # Errors
    /// As for [`Reactor::set_pool_limits`](crate::Reactor::set_pool_limits).
    ///
    /// ```
    /// use gsource::{AioContext, PoolLimits};
    /// let aio = AioContext::new()?;
    /// aio.set_pool_limits(PoolLimits { min: 0, max: 2 })?;
    /// let refused = aio.set_pool_limits(PoolLimits { min: 3, max: 2 }).unwrap_err();
    /// assert_eq!(refused.to_string(), "bad thread-pool-min/thread-pool-max values");
    /// # Ok::<(), gsource::Error>(())
    /// ```
    pub fn set_pool_limits(&self, limits: PoolLimits) -> Result<()> {
        self.core().private.set_pool_limits(limits)
    }
}

impl Job {
    /// Takes the job back if it has not begun: then it is delivered as `Cancelled` (`ECANCELED`). A job that runs is left
    /// alone and delivers its result. True when it had not begun.
    pub fn cancel(&self) -> bool {
        self.0.cancel()
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("void", &self.0.is_void())
            .finish_non_exhaustive()
    }
}

impl Jobs {
    fn take(&self, id: u64) -> Option<Arc<dyn AnyJob>> {
        lock(&self.live).remove(&id)
    }

    /// The context ends. On the thread that tears it down.
    pub(crate) fn abandon(&self) {
        let live = mem::take(&mut *lock(&self.live));
        for job in live.into_values() {
            job.abandon();
        }
    }
}

impl<W, D, T> JobState<W, D, T>
where
    W: FnOnce() -> T + Send,
    D: FnOnce(Result<T>) + Send,
    T: Send,
{
    /// Goes from one stage to the next, if `step` knows how; gives back what it leaves over.
    fn step<R>(
        &self,
        step: impl FnOnce(JobStage<W, D, T>) -> (JobStage<W, D, T>, Option<R>),
    ) -> Option<R> {
        let mut stage = lock(&self.stage);
        let (next, left) = step(mem::replace(&mut *stage, JobStage::Over));
        *stage = next;
        drop(stage);
        left
    }

    fn begin(&self) -> Option<W> {
        self.step(|stage| match stage {
            JobStage::Queued(work, done) => (JobStage::Running(done), Some(work)),
            other => (other, None),
        })
    }

    fn finish(&self, result: Result<T>) {
        let left = self.step(|stage| match stage {
            JobStage::Running(done) => (JobStage::Finished(done, result), None),
            other => (other, Some(result)),
        });
        if left.is_none() {
            self.report();
        }
        panic_boundary::drop_guarded(&"result of an abandoned job", left);
    }

    /// Gives a queued job up; true when it was queued.
    fn give_up(&self, error: Error) -> bool {
        let left = self.step(|stage| match stage {
            JobStage::Queued(work, done) => (JobStage::Unrun(work, done, error), None),
            other => (other, Some(error)),
        });
        if left.is_some() {
            return false;
        }
        self.report();
        true
    }

    /// Takes what there is, whatever it is.
    fn end(&self) -> JobStage<W, D, T> {
        mem::replace(&mut *lock(&self.stage), JobStage::Over)
    }

    /// Lets the home deliver. After a tear-down there is nothing left to deliver.
    fn report(&self) {
        let Some(core) = self.core.upgrade() else {
            return;
        };
        let (home, id) = (Weak::clone(&self.core), self.id);
        let deliver = move || {
            let job = home.upgrade().and_then(|home| home.jobs.take(id));
            if let Some(job) = job {
                job.deliver();
            }
        };
        core.tenant.schedule_oneshot("pool job", deliver);
    }
}

impl<W, D, T> Work for JobState<W, D, T>
where
    W: FnOnce() -> T + Send,
    D: FnOnce(Result<T>) + Send,
    T: Send,
{
    fn run(&self) {
        if let Some(work) = self.begin() {
            self.finish(panic_boundary::catch("the job", work));
        }
    }

    fn refused(&self, error: &Error) {
        let again = io::Error::from_raw_os_error(error.errno());
        let what = "cannot start a pool worker";
        self.give_up(Error::limited(what, again, Resource::Thread));
    }

    fn is_void(&self) -> bool {
        !matches!(*lock(&self.stage), JobStage::Queued(..))
    }
}

impl<W, D, T> AnyJob for JobState<W, D, T>
where
    W: FnOnce() -> T + Send,
    D: FnOnce(Result<T>) + Send,
    T: Send,
{
    fn cancel(&self) -> bool {
        let message = "the job was cancelled before it began";
        let cancelled = self.give_up(Error::new(ErrorKind::Cancelled, message));
        if cancelled {
            self.pool.count_void();
        }
        cancelled
    }

    fn deliver(&self) {
        let stage = self.end();
        match stage {
            JobStage::Finished(done, result) => done(result),
            JobStage::Unrun(work, done, error) => {
                panic_boundary::drop_guarded(&"a job that has not run", work);
                done(Err(error));
            }
            JobStage::Queued(..) | JobStage::Running(_) | JobStage::Over => {}
        }
    }

    fn abandon(&self) {
        let stage = self.end();
        if matches!(stage, JobStage::Queued(..)) {
            self.pool.count_void();
        }
        panic_boundary::drop_guarded(&"an abandoned job", stage);
    }
}
