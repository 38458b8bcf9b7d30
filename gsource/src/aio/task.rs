//! Tasks: futures that need not be `Send`, run by the home of an AioContext.
//!
//! Waking a task schedules its bottom half. So wakes come from any thread and coalesce, tasks run in the order of the bottom
//! halves, and a task is polled at most once per iteration. A task can wait for the futures of [`wait`] and [`mod@file`], for
//! [`AioContext::run_in_pool`], and for any other future that wakes its waker.
//!
//! # Threads
//! A task lives and dies on the thread that drives its context when it is spawned. So while a task lives, no other thread can
//! drive the reactor that its context is on (`WrongThread`), and its context can not be moved (`Busy`): end the tasks first,
//! with [`AioContext::cancel_tasks`] or by their handles. [`AioContext::spawn`] takes a closure from any thread, which makes the
//! future on the home. [`JoinHandle`]s may be used on any thread if the output may.
//!
//! # Invariants
//! 1. A future is reached only through `TASKS` of the thread that has spawned it.
//! 2. While `TASKS` holds a task, its [`PinGuard`] keeps other threads from driving the reactor. So bottom halves of tasks run
//!    where their futures are.
//! 3. No borrow of `TASKS` and no lock is held while a future is polled or dropped, or a waker called.
#![deny(unsafe_code)] // a child that needs it says why

pub(crate) mod file;
mod promise;
pub(crate) mod wait;

use crate::reactor::tenant::Tenant;
use crate::reactor::thread_pin::PinGuard;
use crate::sync::{AtomicBool, Ordering};
use crate::{AioContext, Bh, Error, ErrorKind, Job, Result, panic_boundary};
use promise::Promise;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

crate::sync::thread_local! {
    /// The tasks that were spawned here and are not over.
    static TASKS: RefCell<BTreeMap<u64, Rc<Task>>> = const { RefCell::new(BTreeMap::new()) };
}

/// The number of the next task of any thread.
static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

/// A task in memory.
struct Task {
    /// Absent while it is polled.
    future: Cell<Option<Pin<Box<dyn Future<Output = ()>>>>>,
    remote: Arc<Remote>,
    outcome: Arc<dyn Fail>,
    /// Woken by an iteration inside its own poll.
    again: Cell<bool>,
    /// Taken out of `TASKS`, maybe while it is polled.
    over: Cell<bool>,
    pin: PinGuard,
}

/// What other threads may touch of a task.
struct Remote {
    id: u64,
    bh: Bh,
    aborted: AtomicBool,
}

impl Wake for Remote {
    fn wake(self: Arc<Self>) {
        self.bh.schedule();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.bh.schedule();
    }
}

/// Sets the outcome of a task to an error, whatever type its output has.
trait Fail {
    fn fail(&self, error: Error);
}

impl<T> Fail for Promise<Result<T>> {
    fn fail(&self, error: Error) {
        self.set(Err(error));
    }
}

/// The right to a task's output. Dropping it ends the task; see [`JoinHandle::detach`].
///
/// It is a future itself: `Err` with kind `Cancelled` when the task was ended early, and `Panicked` when it panicked.
#[must_use = "a task ends when its handle is dropped; `detach` lets it run on"]
pub struct JoinHandle<T> {
    outcome: Arc<Promise<Result<T>>>,
    remote: Arc<Remote>,
    detached: bool,
}

impl AioContext {
    /// Spawns `future` on this context. The calling thread drives it, or no thread does. The future is first polled in an
    /// iteration.
    ///
    /// # Errors
    /// `WrongThread` when another thread drives this context.
    ///
    /// ```
    /// use gsource::{AioContext, Clock, Wait};
    /// use std::rc::Rc;
    ///
    /// let aio = AioContext::new()?;
    /// let (local, sleeper) = (Rc::new(6), aio.clone());
    /// let task = aio.spawn_local(async move {
    ///     sleeper.sleep_ns(Clock::Realtime, 1_000_000).await;
    ///     *local * 7
    /// })?;
    /// while !task.is_finished() {
    ///     aio.poll(Wait::Block)?;
    /// }
    /// assert_eq!(task.try_take().unwrap()?, 42);
    /// # Ok::<(), gsource::Error>(())
    /// ```
    pub fn spawn_local<F>(&self, future: F) -> Result<JoinHandle<F::Output>>
    where
        F: Future + 'static,
    {
        let handle = JoinHandle::new(self.tenant());
        let pin = PinGuard::begin(self.tenant())?;
        begin(pin, &handle.remote, &handle.outcome, future)?;
        Ok(handle)
    }

    /// Spawns the future that `build` makes, from any thread; `build` runs on the home. After a tear-down the task is
    /// cancelled.
    ///
    /// ```
    /// use gsource::{AioContext, Wait};
    /// let aio = AioContext::new()?;
    /// let spawner = aio.clone();
    /// let task = std::thread::spawn(move || spawner.spawn(|| async { "from afar" })).join().unwrap();
    /// while !task.is_finished() {
    ///     aio.poll(Wait::Block)?;
    /// }
    /// assert_eq!(task.try_take().unwrap()?, "from afar");
    /// # Ok::<(), gsource::Error>(())
    /// ```
    pub fn spawn<B, F>(&self, build: B) -> JoinHandle<F::Output>
    where
        B: FnOnce() -> F + Send + 'static,
        F: Future + 'static,
        F::Output: Send + 'static,
    {
        let handle = JoinHandle::new(self.tenant());
        let unbuilt = Unbuilt {
            tenant: Arc::clone(self.tenant()),
            remote: Arc::clone(&handle.remote),
            outcome: Some(Arc::clone(&handle.outcome)),
        };
        let build = move || unbuilt.build(build);
        self.tenant().schedule_oneshot("spawn", build);
        handle
    }

    /// Ends the tasks of this context, on the home: their futures are dropped and their handles answer `Cancelled`.
    ///
    /// # Errors
    /// `WrongThread` when there are tasks and another thread drives them.
    pub fn cancel_tasks(&self) -> Result<()> {
        if !self.tenant().has_pins() {
            return Ok(());
        }
        let reactor = self.reactor()?;
        let _driving = reactor.drive()?;
        end_all(self.tenant());
        Ok(())
    }

    /// Runs `work` on a worker of this context's pool, as [`AioContext::submit`] does, and is its result. Dropping the future
    /// takes the job back if it has not begun.
    ///
    /// ```
    /// # use gsource::{AioContext, Wait};
    /// # let aio = AioContext::new()?;
    /// let pool = aio.clone();
    /// let task = aio.spawn_local(async move { pool.run_in_pool(|| 6 * 7).await })?;
    /// # while !task.is_finished() { aio.poll(Wait::Block)?; }
    /// assert_eq!(task.try_take().unwrap()??, 42);
    /// # Ok::<(), gsource::Error>(())
    /// ```
    pub fn run_in_pool<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> PoolRun<T> {
        let result = Arc::new(Promise::new());
        let promise = Arc::clone(&result);
        let job = self.submit(work, move |outcome| promise.set(outcome));
        PoolRun { job, result }
    }
}

/// A job of the worker pool as a future; see [`AioContext::run_in_pool`].
#[derive(Debug)]
#[must_use = "a job that has not begun is taken back when its future is dropped"]
pub struct PoolRun<T> {
    job: Job,
    result: Arc<Promise<Result<T>>>,
}

impl<T> Future for PoolRun<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        self.result.poll(context)
    }
}

impl<T> Drop for PoolRun<T> {
    fn drop(&mut self) {
        self.job.cancel();
    }
}

/// A task whose future is not made yet. If it never is, the task is cancelled.
struct Unbuilt<T: 'static> {
    tenant: Arc<Tenant>,
    remote: Arc<Remote>,
    /// Present until the future is made.
    outcome: Option<Arc<Promise<Result<T>>>>,
}

impl<T> Unbuilt<T> {
    /// On the home.
    fn build<F: Future<Output = T> + 'static>(mut self, build: impl FnOnce() -> F) {
        if self.remote.is_aborted() {
            return;
        }
        let Some(outcome) = self.outcome.take() else {
            return;
        };
        let begun = PinGuard::begin(&self.tenant).and_then(|pin| {
            let future = panic_boundary::catch("the task", build).inspect_err(report)?;
            begin(pin, &self.remote, &outcome, future)
        });
        if let Err(error) = begun {
            outcome.fail(error);
        }
    }
}

impl<T> Drop for Unbuilt<T> {
    fn drop(&mut self) {
        if let Some(outcome) = &self.outcome {
            outcome.fail(cancelled());
        }
    }
}

/// Makes `future` a task of the calling thread, which drives the context.
fn begin<F: Future + 'static>(
    pin: PinGuard,
    remote: &Arc<Remote>,
    outcome: &Arc<Promise<Result<F::Output>>>,
    future: F,
) -> Result<()> {
    let promise = Arc::clone(outcome);
    let future = async move {
        let output = future.await;
        promise.set(Ok(output));
    };
    let task = Task {
        future: Cell::new(Some(Box::pin(future))),
        remote: Arc::clone(remote),
        outcome: Arc::<Promise<_>>::clone(outcome),
        again: Cell::new(false),
        over: Cell::new(false),
        pin,
    };
    let task = Rc::new(task);
    let inserted = TASKS.try_with(|tasks| tasks.borrow_mut().insert(remote.id, task));
    inserted.map_err(|_| Error::new(ErrorKind::Closed, "the thread is ending"))?;
    remote.bh.schedule();
    Ok(())
}

/// Polls a task, if it is one of this thread that is not over.
fn run(id: u64) {
    let found = TASKS.try_with(|tasks| tasks.borrow().get(&id).cloned());
    if let Ok(Some(task)) = found {
        task.step();
    }
}

/// Ends the tasks of `tenant`, the oldest first. On the thread that drives it.
pub(crate) fn end_all(tenant: &Arc<Tenant>) {
    if !tenant.has_pins() {
        // Thread-local storage that is first used at the end of a thread, when its destructors have run, would leak.
        return;
    }
    let own = TASKS.try_with(|tasks| {
        let tasks = tasks.borrow();
        let own = tasks.iter().filter(|(_, task)| task.pin.is_of(tenant));
        own.map(|(id, _)| *id).collect::<Vec<_>>()
    });
    for id in own.unwrap_or_default() {
        forget(id);
    }
}

/// Takes a task out of the table. It ends here, unless it is being polled.
fn forget(id: u64) {
    let taken = TASKS.try_with(|tasks| tasks.borrow_mut().remove(&id));
    if let Ok(Some(task)) = taken {
        task.over.set(true);
    }
}

impl Task {
    fn step(self: Rc<Self>) {
        let Some(mut future) = self.future.take() else {
            self.again.set(true);
            return;
        };
        let id = self.remote.id;
        if self.remote.is_aborted() {
            self.future.set(Some(future));
            return forget(id);
        }
        let waker = Waker::from(Arc::clone(&self.remote));
        let poll = || future.as_mut().poll(&mut Context::from_waker(&waker));
        match panic_boundary::catch("the task", poll) {
            Ok(Poll::Pending) => {
                self.future.set(Some(future));
                if self.again.take() {
                    self.remote.bh.schedule();
                }
                return;
            }
            Ok(Poll::Ready(())) => panic_boundary::drop_guarded(&"destructor of a task", future),
            Err(error) => {
                report(&error);
                panic_boundary::drop_guarded(&"destructor of a task", future);
                self.outcome.fail(error);
            }
        }
        forget(id);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        panic_boundary::drop_guarded(&"destructor of a task", self.future.take());
        self.outcome.fail(cancelled());
    }
}

impl Remote {
    fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Acquire)
    }
}

impl<T> JoinHandle<T> {
    fn new(tenant: &Arc<Tenant>) -> JoinHandle<T> {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let bh = Bh::new(Arc::clone(tenant), "task", move || run(id));
        let remote = Remote {
            id,
            bh,
            aborted: AtomicBool::new(false),
        };
        JoinHandle {
            outcome: Arc::new(Promise::new()),
            remote: Arc::new(remote),
            detached: false,
        }
    }

    /// Ends the task: its future is dropped on the home, in an iteration, and polled no more. What is over pins so.
    pub fn abort(&self) {
        self.remote.aborted.store(true, Ordering::Release);
        self.remote.bh.schedule();
    }

    /// Lets the task run on without a handle.
    pub fn detach(mut self) {
        self.detached = true;
    }

    /// True when the outcome is there, or has been taken.
    pub fn is_finished(&self) -> bool {
        self.outcome.is_set()
    }

    /// The outcome, once.
    pub fn try_take(&self) -> Option<Result<T>> {
        self.outcome.take()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        self.outcome.poll(context)
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if !self.detached && !self.is_finished() {
            self.abort();
        }
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("finished", &self.is_finished())
            .finish_non_exhaustive()
    }
}

fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "the task was cancelled")
}

fn report(error: &Error) {
    glib::g_warning!("qcontext", "{error}");
}
