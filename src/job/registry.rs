//! The jobs of the process: their table, their work, and what follows from each change.
//!
//! # Threads
//! Any thread may change the table. What follows is carried out in order by the thread that made the change, or by one that is at
//! it already, with no lock held.
//!
//! # Invariants
//! 1. Effects are carried out in the order of the changes, by one thread at a time. So clients hear of states in their order.
//! 2. No work runs, and none is dropped, under the lock.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use gsource::AioContext;

use super::event;
use super::runner::JobRunner;
use super::running::{JobOptions, JobUsers, RunningJob, unsigned_speed};
use super::state::{JobStatus, JobType, JobVerb};
use super::table::info::{TableInfo, Wishes};
use super::table::{Effect, JobErrorAction, JobIo, JobKey, JobStep, JobTable, NewJob};
use super::work::JobWork;
use crate::object::Options;
use crate::{ContextClaim, Error, ErrorKind, QContext, Result};

static JOBS: Mutex<Jobs> = Mutex::new(Jobs::new());

/// Called when all jobs are over.
type OverCallback = Box<dyn FnOnce() + Send>;

struct Jobs {
    table: JobTable,
    live: Vec<LiveJob>,
    effects: VecDeque<Effect>,
    is_executing: bool,
    over: Vec<OverCallback>,
}

#[derive(Clone)]
struct LiveJob {
    control: Arc<RunningJob>,
    runner: Arc<JobRunner>,
    context: QContext,
    /// The context is not deleted before the job is concluded: `None` then.
    claim: Option<Arc<ContextClaim>>,
    /// `None` when the job is concluded.
    work: Option<Arc<dyn JobWork>>,
}

/// What is known of a job.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)] // independent facts
pub struct JobInfo {
    /// Its id.
    pub id: String,
    /// What it does.
    pub kind: JobType,
    /// Its state.
    pub status: JobStatus,
    /// Why it failed.
    pub error: Option<String>,
    /// What is done.
    pub done: u64,
    /// What there is to do.
    pub total: u64,
    /// The most bytes per second; 0 for no limit.
    pub speed: u64,
    /// It is at work and does not wait for a time or a user.
    pub is_busy: bool,
    /// A user wants it to rest.
    pub is_paused: bool,
    /// It rests because a request failed.
    pub has_io_error: bool,
    /// It makes its changes final by itself.
    pub auto_finalize: bool,
    /// It is forgotten when it is concluded.
    pub auto_dismiss: bool,
    /// For a mirror: its target has what is written to its source, and gets that at the same time.
    pub is_actively_synced: Option<bool>,
}

/// A job by its id.
#[derive(Clone, Copy, Debug)]
pub enum JobName<'a> {
    /// Of any type.
    Any(&'a str),
    /// A block job.
    Block(&'a str),
}

/// Starts a job, whose work runs on an AioContext of its own on `context`.
///
/// # Errors
/// The id is taken or not well-formed; the context has been stopped.
pub fn start(options: JobOptions, context: &QContext, work: Arc<dyn JobWork>) -> Result<()> {
    let claim = context.claim(&options.id)?;
    let aio = AioContext::new()?;
    context.attach(&aio, None)?;
    let started = insert(options, (context, claim), &aio, work);
    if started.is_err() {
        context.detach(&aio);
    }
    started
}

fn insert(
    options: JobOptions,
    (context, claim): (&QContext, ContextClaim),
    aio: &AioContext,
    work: Arc<dyn JobWork>,
) -> Result<()> {
    change(|jobs| {
        let key = jobs.table.create(NewJob {
            id: options.id.clone(),
            kind: options.kind,
            auto_finalize: options.auto_finalize,
            auto_dismiss: options.auto_dismiss,
            has_ready: work.has_ready(),
            group: None,
        })?;
        let control = RunningJob::new(key, &options, &Users, aio.clone());
        jobs.live.push(LiveJob {
            control: Arc::new(control),
            runner: JobRunner::new(aio),
            context: context.clone(),
            claim: Some(Arc::new(claim)),
            work: Some(work),
        });
        jobs.table.start(key);
        Ok(())
    })
}

/// Checks that a new job may have this id.
///
/// # Errors
/// The id is taken or not well-formed.
pub fn check_new_id(id: &str) -> Result<()> {
    lock().table.check_new_id(id)
}

/// Does what a user wants of a job.
///
/// # Errors
/// There is no such job, or its state does not allow that.
pub fn apply(name: JobName<'_>, verb: JobVerb) -> Result<()> {
    change(|jobs| {
        let table = &mut jobs.table;
        let key = find(table, name)?;
        match verb {
            JobVerb::Cancel => table.cancel(key, true),
            JobVerb::Pause => table.pause(key),
            JobVerb::Resume => table.resume(key),
            JobVerb::Complete => table.complete(key),
            JobVerb::Finalize => table.finalize(key),
            JobVerb::Dismiss => table.dismiss(key),
            JobVerb::SetSpeed | JobVerb::Change => table.check_verb(key, verb),
        }
    })
}

/// Cancels a block job; without `force`, a ready one ends well.
///
/// # Errors
/// There is no such block job, or its state does not allow that.
pub fn cancel_block_job(id: &str, force: bool) -> Result<()> {
    change(|jobs| {
        let key = jobs.table.find_block_job(id)?;
        jobs.table.cancel_block_job(key, force)
    })
}

/// Limits the speed of a block job to so many bytes per second; 0 for no limit.
///
/// # Errors
/// There is no such block job, its state does not allow that, or the speed is negative.
pub fn set_speed(id: &str, speed: i64) -> Result<()> {
    let control = change(|jobs| {
        let key = jobs.table.find_block_job(id)?;
        jobs.table.check_verb(key, JobVerb::SetSpeed)?;
        Result::Ok(jobs.live(key).map(|live| Arc::clone(&live.control)))
    })?;
    let speed = unsigned_speed(speed)?;
    if let Some(control) = control {
        control.set_speed(speed);
    }
    Ok(())
}

/// Changes options of a block job while it works.
///
/// # Errors
/// There is no such block job, its state does not allow that, or it has no options that can change, or not so.
pub fn change_options(id: &str, options: Options) -> Result<()> {
    let work = change(|jobs| {
        let key = jobs.table.find_block_job(id)?;
        jobs.table.check_verb(key, JobVerb::Change)?;
        Result::Ok(jobs.live(key).and_then(|live| live.work.clone()))
    })?;
    work.map_or(Ok(()), |work| work.change(options))
}

/// All jobs, the newest first, as QEMU lists them.
pub fn list() -> Vec<JobInfo> {
    let jobs = lock();
    let infos = jobs.table.list().into_iter();
    let infos = infos.filter_map(|info| jobs.describe(info)).collect();
    drop(jobs);
    infos
}

/// Cancels all jobs, and calls `over` when they are concluded.
pub fn cancel_all(over: impl FnOnce() + Send + 'static) {
    change(|jobs| {
        for job in jobs.table.list() {
            // One that cannot be cancelled ends by itself.
            let _ = jobs.table.cancel(job.key, true);
        }
        jobs.over.push(Box::new(over));
    });
}

/// The users of all jobs.
struct Users;

impl JobUsers for Users {
    fn wishes(&self, key: JobKey) -> Wishes {
        lock().table.wishes(key)
    }

    fn reach_pause(&self, key: JobKey) -> bool {
        change(|jobs| jobs.table.reach_pause(key))
    }

    fn leave_pause(&self, key: JobKey) {
        change(|jobs| jobs.table.leave_pause(key));
    }

    fn become_ready(&self, key: JobKey) {
        change(|jobs| jobs.table.become_ready(key));
    }

    fn begin_final(&self, key: JobKey) -> bool {
        change(|jobs| jobs.table.begin_final(key))
    }

    fn request_failed(&self, key: JobKey, io: JobIo, action: JobErrorAction) {
        change(|jobs| jobs.table.request_failed(key, io, action));
    }
}

fn find(table: &JobTable, name: JobName<'_>) -> Result<JobKey> {
    match name {
        JobName::Any(id) => table.find(id),
        JobName::Block(id) => table.find_block_job(id),
    }
}

impl Jobs {
    const fn new() -> Jobs {
        Jobs {
            table: JobTable::new(),
            live: Vec::new(),
            effects: VecDeque::new(),
            is_executing: false,
            over: Vec::new(),
        }
    }

    fn live(&self, key: JobKey) -> Option<&LiveJob> {
        self.live.iter().find(|live| live.control.key == key)
    }

    fn describe(&self, info: TableInfo) -> Option<JobInfo> {
        let live = self.live(info.key)?;
        let control = &live.control;
        let (done, total) = control.progress();
        let is_at_work = matches!(info.status, JobStatus::Running | JobStatus::Ready);
        Some(JobInfo {
            id: info.id,
            kind: info.kind,
            status: info.status,
            error: info.error,
            done,
            total,
            speed: control.speed(),
            is_busy: is_at_work && !control.is_resting(),
            is_paused: info.is_paused,
            has_io_error: info.has_io_error,
            auto_finalize: info.auto_finalize,
            auto_dismiss: info.auto_dismiss,
            is_actively_synced: live
                .work
                .as_ref()
                .and_then(|work| work.is_actively_synced()),
        })
    }

    /// The job of an effect. When it is released or gone, what it had is in the answer alone.
    fn job_of(&mut self, effect: &Effect) -> Option<LiveJob> {
        let key = effect.key();
        let index = self.live.iter().position(|live| live.control.key == key)?;
        match effect {
            Effect::Gone(_) => Some(self.live.remove(index)),
            Effect::Release(_) => {
                let live = &mut self.live[index];
                let (work, claim) = (live.work.take(), live.claim.take());
                Some(LiveJob {
                    work,
                    claim,
                    ..live.clone()
                })
            }
            _ => Some(self.live[index].clone()),
        }
    }

    /// The callbacks of those who wait for the end of all jobs, if it has come.
    fn take_over(&mut self) -> Vec<OverCallback> {
        let is_over = |job: &TableInfo| job.status == JobStatus::Concluded;
        match self.table.list().iter().all(is_over) {
            true => std::mem::take(&mut self.over),
            false => Vec::new(),
        }
    }
}

/// Changes the jobs, and carries out what follows.
fn change<T>(change: impl FnOnce(&mut Jobs) -> T) -> T {
    let mut jobs = lock();
    let answer = change(&mut jobs);
    let effects = jobs.table.take_effects();
    jobs.effects.extend(effects);
    if !jobs.is_executing {
        jobs.is_executing = true;
        execute_all(jobs);
    }
    answer
}

fn execute_all(mut jobs: MutexGuard<'static, Jobs>) {
    while let Some(effect) = jobs.effects.pop_front() {
        let live = jobs.job_of(&effect);
        drop(jobs);
        if let Some(live) = live {
            execute(effect, live);
        }
        jobs = lock();
    }
    jobs.is_executing = false;
    let over = jobs.take_over();
    drop(jobs);
    over.into_iter().for_each(|over| over());
}

fn execute(effect: Effect, live: LiveJob) {
    let control = &live.control;
    match effect {
        Effect::Status(_, status) => event::status_changed(control, status),
        Effect::Ready(_) => event::ready(control),
        Effect::Pending(_) => event::pending(control),
        Effect::Failed(_, io, action) => event::request_failed(control, io, action),
        Effect::Completed(_, error) => event::completed(control, error),
        Effect::Cancelled(_) => event::cancelled(control),
        Effect::Wake(_) => control.wake(),
        Effect::Run(key) => run(key, live),
        Effect::Step(key, step) => carry_out(key, step, &live),
        Effect::Release(_) => release(live),
        Effect::Gone(_) => {}
    }
}

/// Starts the work.
fn run(key: JobKey, live: LiveJob) {
    let LiveJob {
        control,
        runner,
        work: Some(work),
        ..
    } = live
    else {
        return;
    };
    let work = work.run(Arc::clone(&control));
    runner.start(Box::pin(async move {
        control.pause_point().await;
        let outcome = match control.is_cancelled() {
            true => Ok(()),
            false => without_panic(work).await,
        };
        change(|jobs| jobs.table.run_over(key, outcome));
    }));
}

fn carry_out(key: JobKey, step: JobStep, live: &LiveJob) {
    let work = live.work.as_ref().map(Arc::clone);
    let done = move |outcome| change(|jobs| jobs.table.step_done(key, outcome));
    match work.and_then(|work| work.step(step, Arc::clone(&live.control))) {
        Some(work) => live.runner.start(Box::pin(async move {
            done(without_panic(work).await);
        })),
        None => done(Ok(())),
    }
}

/// The job is concluded: what it used is free again.
fn release(live: LiveJob) {
    let LiveJob {
        control,
        context,
        claim,
        work,
        ..
    } = live;
    drop(work);
    // Later, because the AioContext may be running the callback that has led here. A context that has stopped has detached it.
    let leaving = context.clone();
    let _ = context.invoke(move || {
        leaving.detach(control.aio());
        drop(claim);
    });
}

/// A panic ends the job and not the process.
async fn without_panic(
    mut work: Pin<Box<dyn Future<Output = Result<()>> + Send>>,
) -> Result<(), String> {
    let poll = |context: &mut std::task::Context<'_>| {
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)));
        polled.unwrap_or_else(|_| {
            let error = Error::new(ErrorKind::Panicked, "the job panicked");
            Poll::Ready(Err(error))
        })
    };
    std::future::poll_fn(poll)
        .await
        .map_err(|error| error.to_string())
}

/// The list is consistent after every single operation on it.
fn lock() -> MutexGuard<'static, Jobs> {
    JOBS.lock().unwrap_or_else(PoisonError::into_inner)
}
