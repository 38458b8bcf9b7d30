//! The worker pool of a reactor: threads for work that would block its home.
//!
//! [`AioContext::submit`](crate::AioContext::submit) queues a [`Job`](crate::Job), whose result comes back to the AioContext; a user whose requests must not cost an
//! allocation each implements [`Work`] and enqueues that. What is queued starts in order. A thread is started
//! when there is more work than free threads, up to the maximum; one that finds nothing to do for ten seconds goes away
//! unless it belongs to the minimum.
//!
//! # Threads
//! Everything may be called from any thread with any lock held. Nothing here waits for a worker, so nothing here can
//! deadlock: a reactor that goes away leaves its workers to finish what is queued and to end by themselves.
//!
//! # Invariants
//! 1. `free` counts the threads that will look at the queue anyway: those that were started and have not looked yet, and those
//!    that wait. Work in the queue beyond that number needs another thread.
//! 2. While the queue is not empty there is a thread, since `max` is at least 1 and a thread leaves a queue that is not empty
//!    only when there are more than `max`. A queue for which no thread could be started is refused as a whole.
//! 3. No lock is held while work runs or is dropped.
#![forbid(unsafe_code)]

use crate::sync::lock;
use crate::sync::{Condvar, Mutex, MutexGuard, PoisonError, thread};
use crate::{Error, ErrorKind, Resource, Result, panic_boundary};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How long a worker above the minimum waits for work before it goes away.
const IDLE: Duration = Duration::from_secs(10);

/// How many workers a pool has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// So many stay, once the pool has been used.
    pub min: i64,
    /// There are never more.
    pub max: i64,
}

impl Default for PoolLimits {
    fn default() -> Self {
        PoolLimits { min: 0, max: 64 }
    }
}

impl PoolLimits {
    /// The limits as counts, if they are good.
    fn check(self) -> Result<(usize, usize)> {
        for (name, value) in [("min", self.min), ("max", self.max)] {
            if value < 0 {
                let range = format!("must be in range [0, {}]", i64::MAX);
                let message = format!("thread-pool-{name} value {range}");
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
        }
        let bad = || {
            let message = "bad thread-pool-min/thread-pool-max values";
            Error::new(ErrorKind::InvalidArgument, message)
        };
        let max = i32::try_from(self.max).map_err(|_| bad())?;
        if self.min > self.max || max == 0 {
            return Err(bad());
        }
        let count = |limit| usize::try_from(limit).map_err(|_| bad());
        Ok((count(self.min)?, count(self.max)?))
    }
}

/// What a worker does: one piece each time it is enqueued.
pub trait Work: Send + Sync {
    /// Does one piece, on a worker.
    fn run(&self);

    /// No worker could be started: does the piece or gives it up, on the thread that enqueued something. Slow is better than
    /// never, so it is done there unless this says otherwise.
    fn refused(&self, error: &Error) {
        let _ = error;
        self.run();
    }

    /// True when there is nothing to do any more, so that the place in the queue may be given up.
    fn is_void(&self) -> bool {
        false
    }
}

/// The worker pool of a reactor. Clones are the same pool.
///
/// ```
/// use gsource::{AioContext, Wait};
/// use std::sync::mpsc::channel;
///
/// let aio = AioContext::new()?;
/// let (send, answer) = channel();
/// aio.submit(|| 6 * 7, move |result| send.send(result).unwrap());
/// assert_eq!(aio.pool().threads(), 1);
/// while !aio.poll(Wait::Block)? {}
/// assert_eq!(answer.recv().unwrap()?, 42);
/// # Ok::<(), gsource::Error>(())
/// ```
#[derive(Clone)]
pub struct Pool(Arc<PoolShared>);

/// A reactor's hold on its pool: when it goes, the workers finish what is queued and end.
pub(crate) struct OwnPool(Pool);

struct PoolShared {
    state: Mutex<PoolState>,
    wanted: Condvar,
    idle: Duration,
}

struct PoolState {
    queue: VecDeque<Arc<dyn Work>>,
    /// How many in the queue are void, roughly.
    void: usize,
    limits: PoolLimits,
    min: usize,
    max: usize,
    threads: usize,
    /// See invariant 1.
    free: usize,
    /// Something was enqueued once.
    used: bool,
    closing: bool,
    /// It was reported that no thread could be started.
    warned: bool,
}

impl OwnPool {
    pub(crate) fn new() -> OwnPool {
        OwnPool(Pool::with_idle(IDLE))
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.0
    }
}

impl Drop for OwnPool {
    fn drop(&mut self) {
        lock(&self.0.0.state).closing = true;
        self.0.0.wanted.notify_all();
    }
}

impl Pool {
    fn with_idle(idle: Duration) -> Pool {
        let limits = PoolLimits::default();
        let (min, max) = limits.check().unwrap_or((0, 1));
        let state = PoolState {
            queue: VecDeque::new(),
            void: 0,
            limits,
            min,
            max,
            threads: 0,
            free: 0,
            used: false,
            closing: false,
            warned: false,
        };
        Pool(Arc::new(PoolShared {
            state: Mutex::new(state),
            wanted: Condvar::new(),
            idle,
        }))
    }

    /// Lets workers run `work` as often as `times` says, each time after what was enqueued before has been started.
    pub fn enqueue(&self, work: &Arc<dyn Work>, times: usize) {
        let mut state = lock(&self.0.state);
        let again = std::iter::repeat_n(work, times);
        state.queue.extend(again.map(Arc::clone));
        state.used = true;
        let (more, waiting) = (state.top_up(), state.free);
        drop(state);
        for _ in 0..times.min(waiting) {
            self.0.wanted.notify_one();
        }
        self.start(more);
    }

    /// How many workers there are.
    pub fn threads(&self) -> usize {
        lock(&self.0.state).threads
    }

    /// How many pieces of work have not been started.
    pub fn queued(&self) -> usize {
        lock(&self.0.state).queue.len()
    }

    pub(crate) fn limits(&self) -> PoolLimits {
        lock(&self.0.state).limits
    }

    pub(crate) fn set_limits(&self, limits: PoolLimits) -> Result<()> {
        let (min, max) = limits.check()?;
        let mut state = lock(&self.0.state);
        (state.limits, state.min, state.max) = (limits, min, max);
        let more = if state.used { state.top_up() } else { 0 };
        drop(state);
        self.0.wanted.notify_all();
        self.start(more);
        Ok(())
    }

    /// Something in the queue has become void. When most of it is, the places are given up.
    pub(crate) fn count_void(&self) {
        let mut state = lock(&self.0.state);
        state.void += 1;
        if state.void * 2 <= state.queue.len() {
            return;
        }
        let (void, live) = std::mem::take(&mut state.queue)
            .into_iter()
            .partition::<VecDeque<_>, _>(|work| work.is_void());
        (state.queue, state.void) = (live, 0);
        drop(state);
        drop(void);
    }

    /// Starts `count` threads that are counted already.
    fn start(&self, count: usize) {
        for started in 0..count {
            let shared = Arc::clone(&self.0);
            let builder = thread::Builder::new().name("pool-worker".into());
            if let Err(error) = builder.spawn(move || shared.serve()) {
                let error = Error::limited("cannot start a pool worker", error, Resource::Thread);
                return self.start_failed(count - started, &error);
            }
        }
    }

    fn start_failed(&self, count: usize, error: &Error) {
        let mut state = lock(&self.0.state);
        let is_first = !std::mem::replace(&mut state.warned, true);
        state.threads -= count;
        state.free -= count;
        let refused = if state.threads == 0 {
            std::mem::take(&mut state.queue)
        } else {
            VecDeque::new()
        };
        drop(state);
        if is_first {
            glib::g_warning!("qcontext", "{error}");
        }
        for work in refused {
            let _ = panic_boundary::guard(&"refused work of a pool", || work.refused(error));
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.0.state);
        f.debug_struct("Pool")
            .field("limits", &state.limits)
            .field("threads", &state.threads)
            .field("queued", &state.queue.len())
            .finish_non_exhaustive()
    }
}

impl PoolState {
    /// Counts in the threads that have to be started.
    fn top_up(&mut self) -> usize {
        let needed = self.threads + self.queue.len().saturating_sub(self.free);
        let wanted = needed.max(self.keep()).min(self.max);
        let more = wanted.saturating_sub(self.threads);
        self.threads += more;
        self.free += more;
        more
    }

    /// So many threads stay without work.
    fn keep(&self) -> usize {
        if self.closing { 0 } else { self.min }
    }

    fn pop(&mut self) -> Option<Arc<dyn Work>> {
        let work = self.queue.pop_front()?;
        if self.void > 0 && work.is_void() {
            self.void -= 1;
        }
        self.free -= 1;
        Some(work)
    }
}

impl PoolShared {
    /// A worker's life.
    #[expect(
        clippy::significant_drop_tightening,
        reason = "the lock is handed on to the next look at the queue"
    )]
    fn serve(&self) {
        let mut state = lock(&self.state);
        while let Some((work, held)) = self.next(state) {
            drop(held);
            let _ = panic_boundary::guard(&"work of a pool", || work.run());
            panic_boundary::drop_guarded(&"work of a pool", work);
            state = lock(&self.state);
            state.free += 1;
        }
    }

    /// The oldest work in the queue; `None` when the calling thread is to end.
    fn next<'a>(
        &'a self,
        mut state: MutexGuard<'a, PoolState>,
    ) -> Option<(Arc<dyn Work>, MutexGuard<'a, PoolState>)> {
        let mut late = false;
        while state.threads <= state.max {
            if let Some(work) = state.pop() {
                return Some((work, state));
            }
            let is_surplus = state.threads > state.keep();
            if is_surplus && (late || state.closing) {
                break;
            }
            (state, late) = self.wait(state, is_surplus);
        }
        state.threads -= 1;
        state.free -= 1;
        let passes_on = !state.queue.is_empty();
        drop(state);
        if passes_on {
            // The notification for that work may have woken this thread.
            self.wanted.notify_one();
        }
        None
    }

    /// Waits for work, for a surplus thread as long as it may be idle; true when that is over.
    fn wait<'a>(
        &self,
        state: MutexGuard<'a, PoolState>,
        is_surplus: bool,
    ) -> (MutexGuard<'a, PoolState>, bool) {
        if is_surplus {
            let woken = self.wanted.wait_timeout(state, self.idle);
            let (locked, wait) = woken.unwrap_or_else(PoisonError::into_inner);
            return (locked, wait.timed_out());
        }
        let woken = self.wanted.wait(state);
        (woken.unwrap_or_else(PoisonError::into_inner), false)
    }
}

#[cfg(test)]
mod tests;
