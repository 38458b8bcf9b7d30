//! A job as its work sees it: what users want of it, its progress, its speed.
//!
//! # Threads
//! The work uses it on the home of its AioContext. Users change it from any thread, and wake the work.
#![forbid(unsafe_code)]

use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use gsource::{AioContext, Clock};

use super::limit::SpeedLimit;
use super::state::JobType;
use super::table::info::Wishes;
use super::table::{JobErrorAction, JobIo, JobKey};
use crate::object::Options;
use crate::{Error, ErrorKind, Result};

/// What a job is made with.
#[derive(Clone, Debug)]
pub struct JobOptions {
    /// Its id.
    pub id: String,
    /// What it does.
    pub kind: JobType,
    /// Makes its changes final by itself.
    pub auto_finalize: bool,
    /// Is forgotten when it is concluded.
    pub auto_dismiss: bool,
    /// The most bytes per second; 0 for no limit.
    pub speed: u64,
}

impl JobOptions {
    /// Takes `speed`, `auto-finalize` and `auto-dismiss` of a block job.
    ///
    /// # Errors
    /// The speed is negative.
    pub fn take(options: &mut Options, id: String, kind: JobType) -> Result<JobOptions> {
        let speed = options.take_int("speed")?.unwrap_or(0);
        Ok(JobOptions {
            id,
            kind,
            auto_finalize: options.take_bool("auto-finalize")?.unwrap_or(true),
            auto_dismiss: options.take_bool("auto-dismiss")?.unwrap_or(true),
            speed: unsigned_speed(speed)?,
        })
    }
}

/// A speed as users give it.
///
/// # Errors
/// It is negative.
pub(super) fn unsigned_speed(speed: i64) -> Result<u64> {
    u64::try_from(speed).map_err(|_| {
        let message = "Parameter 'speed' expects a non-negative value";
        Error::new(ErrorKind::InvalidArgument, message)
    })
}

/// What users want of jobs, and what works say to them.
pub(super) trait JobUsers: Send + Sync {
    fn wishes(&self, key: JobKey) -> Wishes;
    /// Whether the work has to rest; asked again until it has not.
    fn reach_pause(&self, key: JobKey) -> bool;
    /// The work goes on.
    fn leave_pause(&self, key: JobKey);
    fn become_ready(&self, key: JobKey);
    /// See [`RunningJob::begin_final`].
    fn begin_final(&self, key: JobKey) -> bool;
    fn request_failed(&self, key: JobKey, io: JobIo, action: JobErrorAction);
}

/// See the head of this file.
pub struct RunningJob {
    pub(super) key: JobKey,
    pub(super) id: String,
    pub(super) kind: JobType,
    users: &'static dyn JobUsers,
    aio: AioContext,
    done: AtomicU64,
    total: AtomicU64,
    speed: AtomicU64,
    is_resting: AtomicBool,
    limit: Mutex<SpeedLimit>,
    /// Called when users want something.
    wakers: Mutex<Vec<Waker>>,
}

impl RunningJob {
    pub(super) fn new(
        key: JobKey,
        options: &JobOptions,
        users: &'static dyn JobUsers,
        aio: AioContext,
    ) -> RunningJob {
        RunningJob {
            key,
            id: options.id.clone(),
            kind: options.kind,
            users,
            aio,
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            speed: AtomicU64::new(options.speed),
            is_resting: AtomicBool::new(false),
            limit: Mutex::new(SpeedLimit::new(options.speed)),
            wakers: Mutex::default(),
        }
    }

    /// The AioContext that the work runs on.
    pub fn aio(&self) -> &AioContext {
        &self.aio
    }

    /// Adds to what there is to do.
    pub fn add_total(&self, units: u64) {
        self.total.fetch_add(units, Ordering::Relaxed);
    }

    /// Adds to what is done.
    pub fn add_done(&self, units: u64) {
        self.done.fetch_add(units, Ordering::Relaxed);
    }

    /// Makes what there is to do so much more than what is done.
    pub fn set_remaining(&self, units: u64) {
        let done = self.done.load(Ordering::Relaxed);
        self.total
            .store(done.saturating_add(units), Ordering::Relaxed);
    }

    /// What is done, and what there is to do.
    pub(super) fn progress(&self) -> (u64, u64) {
        let done = self.done.load(Ordering::Relaxed);
        (done, self.total.load(Ordering::Relaxed))
    }

    /// The most bytes per second; 0 for no limit.
    pub fn speed(&self) -> u64 {
        self.speed.load(Ordering::Relaxed)
    }

    pub(super) fn set_speed(&self, speed: u64) {
        self.speed.store(speed, Ordering::Relaxed);
        lock(&self.limit).set(speed);
        self.wake();
    }

    pub(super) fn is_resting(&self) -> bool {
        self.is_resting.load(Ordering::Relaxed)
    }

    /// Whether the work is to end, and its changes are undone.
    pub fn is_cancelled(&self) -> bool {
        self.users.wishes(self.key).is_cancelled
    }

    /// To be called before what cannot be undone. False if the job is cancelled. If not, a cancellation comes too late from now on: it
    /// does nothing.
    pub fn begin_final(&self) -> bool {
        self.users.begin_final(self.key)
    }

    /// Whether the work is to rest at its next pause point.
    pub fn is_pausing(&self) -> bool {
        self.users.wishes(self.key).is_pausing
    }

    /// Says whether the work waits for something to do.
    pub fn set_idle(&self, is_idle: bool) {
        self.is_resting.store(is_idle, Ordering::Relaxed);
    }

    /// Wakes the task of `context` when a user wants something.
    pub fn watch(&self, context: &Context<'_>) {
        let mut wakers = lock(&self.wakers);
        if !wakers.iter().any(|known| known.will_wake(context.waker())) {
            wakers.push(context.waker().clone());
        }
    }

    /// The output of `work`; `None` if a user cancels the job first. Then the rest of it is dropped.
    pub async fn unless_cancelled<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(
            |context| match self.poll_until(context, &|| self.is_cancelled()) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => work.as_mut().poll(context).map(Some),
            },
        )
        .await
    }

    /// Does `work`, and calls `hurry` when a user cancels meanwhile, once. With that the work lets its requests come back at once, for
    /// example those that wait for a server.
    pub async fn hurried_by_cancel<T>(
        &self,
        work: impl Future<Output = T>,
        hurry: impl FnOnce(),
    ) -> T {
        let (mut work, mut hurry) = (pin!(work), Some(hurry));
        poll_fn(|context| {
            if hurry.is_some() && self.poll_until(context, &|| self.is_cancelled()).is_ready() {
                hurry.take().into_iter().for_each(|hurry| hurry());
            }
            work.as_mut().poll(context)
        })
        .await
    }

    /// Whether the ready work is to end: it is completed (true), or cancelled without force (false).
    pub fn asked_to_end(&self) -> Option<bool> {
        let wishes = self.users.wishes(self.key);
        match wishes.is_soft_cancelled {
            true => Some(false),
            false => wishes.is_completing.then_some(true),
        }
    }

    /// Says that the work can be completed from now on.
    pub fn become_ready(&self) {
        self.users.become_ready(self.key);
    }

    /// Says that a request has failed. To stop is to rest at the next pause point until a user resumes the job.
    pub fn request_failed(&self, io: JobIo, action: JobErrorAction) {
        self.users.request_failed(self.key, io, action);
    }

    /// Rests while a user wants that. The work calls it where it has nothing in its hands, at least once per request.
    pub async fn pause_point(&self) {
        if !self.users.reach_pause(self.key) {
            return;
        }
        self.rest(|| !self.users.reach_pause(self.key)).await;
        self.users.leave_pause(self.key);
    }

    /// Rests as long as the speed limit demands after `bytes` were moved. A user who cancels, pauses or sets another speed ends
    /// that.
    pub async fn keep_speed(&self, bytes: u64) {
        let now = now_ns();
        let until = lock(&self.limit).charge(bytes, now);
        if until > now {
            let speed = self.speed();
            self.sleep_until(until, || self.speed() != speed).await;
        }
    }

    /// Lets the other tasks of the home go on.
    pub async fn yield_now(&self) {
        let mut is_over = false;
        poll_fn(|context| match mem::replace(&mut is_over, true) {
            true => Poll::Ready(()),
            false => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
        })
        .await;
    }

    /// Rests for a time, or until a user cancels or pauses the job.
    pub async fn rest_ns(&self, length_ns: u64) {
        self.sleep_until(now_ns().saturating_add(length_ns), || false)
            .await;
    }

    /// Rests until a time of the realtime clock, or until a user cancels or pauses the job, or `is_over`.
    async fn sleep_until(&self, until_ns: u64, is_over: impl Fn() -> bool) {
        let until = i64::try_from(until_ns).unwrap_or(i64::MAX);
        let mut sleep = pin!(self.aio.sleep_until_ns(Clock::Realtime, until));
        let is_wanted = || {
            let wishes = self.users.wishes(self.key);
            wishes.is_cancelled || wishes.is_pausing || is_over()
        };
        self.is_resting.store(true, Ordering::Relaxed);
        poll_fn(|context| match sleep.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => self.poll_until(context, &is_wanted),
        })
        .await;
        self.is_resting.store(false, Ordering::Relaxed);
    }

    /// Rests until `is_over`, which is asked whenever a user wants something.
    async fn rest(&self, is_over: impl Fn() -> bool) {
        self.is_resting.store(true, Ordering::Relaxed);
        poll_fn(|context| self.poll_until(context, &is_over)).await;
        self.is_resting.store(false, Ordering::Relaxed);
    }

    fn poll_until(&self, context: &Context<'_>, is_over: &impl Fn() -> bool) -> Poll<()> {
        // First the waker: a wish that comes after the question calls it.
        self.watch(context);
        match is_over() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// The work looks at what users want.
    pub(super) fn wake(&self) {
        let wakers = mem::take(&mut *lock(&self.wakers));
        wakers.into_iter().for_each(Waker::wake);
    }
}

fn now_ns() -> u64 {
    u64::try_from(Clock::Realtime.now_ns()).unwrap_or(0)
}

/// What is locked is consistent after every single operation on it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for RunningJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningJob")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
