//! The jobs and their transactions as a state machine without I/O, threads and clocks.
//!
//! Used by [`super::registry`], which has one behind a lock and carries out its [`Effect`]s in their order. Every job belongs to a
//! group: a transaction, or a group of its own. The jobs of a group finish together: when all have done their work, they are
//! prepared and then committed; when one fails or is cancelled, the others are cancelled and all are aborted. Within a group the
//! newest job comes first, as in QEMU.
//!
//! # Invariants
//! 1. A state follows another one only as [`JobStatus::may_become`] says.
//! 2. Of a group, one job at a time has a step to carry out.
//! 3. A job that was started is concluded once, and after its work is over.
#![forbid(unsafe_code)]

use super::state::{JobStatus, JobType};
use crate::{Error, ErrorKind, Result};

mod group;
pub(super) mod info;
#[cfg(test)]
mod tests;
mod verbs;

/// What is shown as the error of a cancelled job: the text of ECANCELED.
const CANCELLED: &str = "Operation canceled";

/// A number that no other job has or had. An id may come again.
pub(super) type JobKey = u64;

/// What a job is made with.
#[derive(Clone, Debug)]
pub(super) struct NewJob {
    pub(super) id: String,
    pub(super) kind: JobType,
    pub(super) auto_finalize: bool,
    pub(super) auto_dismiss: bool,
    /// It can be completed when it is ready, and cancelled without being aborted.
    pub(super) has_ready: bool,
    /// The transaction, if not one of its own.
    pub(super) group: Option<u64>,
}

/// What is to be done with a job whose group has done its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobStep {
    /// Do what may fail.
    Prepare,
    /// Make the changes final. It cannot fail.
    Commit,
    /// Undo everything. It cannot fail.
    Abort,
}

/// What follows from a change, for the registry to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Clients hear of a new state.
    Status(JobKey, JobStatus),
    /// Clients hear that the job can be completed.
    Ready(JobKey),
    /// Clients hear that the job waits for `job-finalize`.
    Pending(JobKey),
    /// Clients hear that a request of the job has failed.
    Failed(JobKey, JobIo, JobErrorAction),
    /// Clients hear that the job has ended, with this error.
    Completed(JobKey, Option<String>),
    /// Clients hear that the job was cancelled.
    Cancelled(JobKey),
    /// The job's work starts.
    Run(JobKey),
    /// The job's work looks at what users want.
    Wake(JobKey),
    /// The job carries out a step, and says so with [`JobTable::step_done`].
    Step(JobKey, JobStep),
    /// The job's work is dropped.
    Release(JobKey),
    /// The job is gone.
    Gone(JobKey),
}

/// The kind of a request of a job that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobIo {
    /// It read.
    Read,
    /// It wrote.
    Write,
}

/// What a job does when a request has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobErrorAction {
    /// It fails.
    Report,
    /// It goes on, and fails at the end.
    Ignore,
    /// It rests until a user resumes it.
    Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CancelRequest {
    None,
    /// A ready job leaves that state without being completed.
    Soft,
    Force,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RunStage {
    NotStarted,
    Going,
    Over,
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // independent facts
struct JobRecord {
    key: JobKey,
    new: NewJob,
    group: u64,
    status: JobStatus,
    is_user_paused: bool,
    /// It was paused because a request failed.
    has_io_error: bool,
    /// At its pause point: the state that it goes back to.
    pausing: Option<JobStatus>,
    cancel: CancelRequest,
    is_completing: bool,
    run: RunStage,
    was_started: bool,
    error: Option<String>,
    is_prepared: bool,
    /// It makes what cannot be undone; a cancellation comes too late.
    is_final: bool,
    /// Its last step has begun.
    is_settling: bool,
}

impl JobRecord {
    /// Whether the job is to be aborted.
    fn is_cancelled(&self) -> bool {
        self.cancel == CancelRequest::Force
    }
}

/// Jobs that finish together.
#[derive(Debug)]
struct Group {
    number: u64,
    stage: GroupStage,
    /// A job carries out a step.
    is_busy: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GroupStage {
    /// Jobs are at work, or wait for `job-finalize`.
    Working,
    Preparing,
    Committing,
    Aborting,
}

impl Group {
    fn new(number: u64) -> Group {
        Group {
            number,
            stage: GroupStage::Working,
            is_busy: false,
        }
    }
}

/// The jobs; see the head of this file.
#[derive(Debug)]
pub(super) struct JobTable {
    /// The oldest first.
    jobs: Vec<JobRecord>,
    groups: Vec<Group>,
    last_number: u64,
    effects: Vec<Effect>,
}

impl Effect {
    /// The job that it is about.
    pub(super) fn key(&self) -> JobKey {
        match *self {
            Effect::Status(key, _)
            | Effect::Ready(key)
            | Effect::Pending(key)
            | Effect::Failed(key, _, _)
            | Effect::Completed(key, _)
            | Effect::Cancelled(key)
            | Effect::Run(key)
            | Effect::Wake(key)
            | Effect::Step(key, _)
            | Effect::Release(key)
            | Effect::Gone(key) => key,
        }
    }
}

impl JobTable {
    pub(super) const fn new() -> JobTable {
        JobTable {
            jobs: Vec::new(),
            groups: Vec::new(),
            last_number: 0,
            effects: Vec::new(),
        }
    }

    /// Takes what is to be done since the last time.
    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Makes a job.
    ///
    /// # Errors
    /// The id is taken or not well-formed.
    pub(super) fn create(&mut self, new: NewJob) -> Result<JobKey> {
        self.check_new_id(&new.id)?;
        self.last_number += 1;
        let key = self.last_number;
        let group = new.group.unwrap_or(key);
        if !self.groups.iter().any(|known| known.number == group) {
            self.groups.push(Group::new(group));
        }
        self.jobs.push(JobRecord {
            key,
            new,
            group,
            status: JobStatus::Undefined,
            is_user_paused: false,
            has_io_error: false,
            pausing: None,
            cancel: CancelRequest::None,
            is_completing: false,
            run: RunStage::NotStarted,
            was_started: false,
            error: None,
            is_prepared: false,
            is_final: false,
            is_settling: false,
        });
        self.become_status(key, JobStatus::Created);
        Ok(key)
    }

    /// Checks that a new job may have this id.
    ///
    /// # Errors
    /// The id is taken or not well-formed.
    pub(super) fn check_new_id(&self, id: &str) -> Result<()> {
        check_id(id)?;
        if self.jobs.iter().any(|job| job.new.id == id) {
            let message = format!("Job ID '{id}' already in use");
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        Ok(())
    }

    /// Starts a job that was made.
    pub(super) fn start(&mut self, key: JobKey) {
        let Some(job) = self.job_mut(key) else {
            return;
        };
        if job.run != RunStage::NotStarted || job.status != JobStatus::Created {
            return;
        }
        job.run = RunStage::Going;
        job.was_started = true;
        self.become_status(key, JobStatus::Running);
        self.effects.push(Effect::Run(key));
    }

    /// The work is at a point where it may rest. True if it has to, until that is false; see [`JobTable::leave_pause`].
    pub(super) fn reach_pause(&mut self, key: JobKey) -> bool {
        let Some(job) = self.job_mut(key) else {
            return false;
        };
        if !job.is_user_paused || job.cancel == CancelRequest::Force {
            return false;
        }
        let paused = match job.status {
            JobStatus::Running => JobStatus::Paused,
            JobStatus::Ready => JobStatus::Standby,
            _ => return job.pausing.is_some(),
        };
        job.pausing = Some(job.status);
        self.become_status(key, paused);
        true
    }

    /// The work goes on after a rest.
    pub(super) fn leave_pause(&mut self, key: JobKey) {
        let before = self.job_mut(key).and_then(|job| job.pausing.take());
        if let Some(before) = before {
            self.become_status(key, before);
        }
    }

    /// A request of the work has failed. If the job stops, it rests until a user resumes it.
    pub(super) fn request_failed(&mut self, key: JobKey, io: JobIo, action: JobErrorAction) {
        self.effects.push(Effect::Failed(key, io, action));
        if let Some(job) = self.job_mut(key).filter(|_| action == JobErrorAction::Stop) {
            job.is_user_paused = true;
            job.has_io_error = true;
        }
    }

    /// The work can be completed from now on.
    pub(super) fn become_ready(&mut self, key: JobKey) {
        self.become_status(key, JobStatus::Ready);
        self.effects.push(Effect::Ready(key));
    }

    /// The work is over.
    pub(super) fn run_over(&mut self, key: JobKey, outcome: Result<(), String>) {
        self.leave_pause(key);
        let Some(job) = self.job_mut(key) else {
            return;
        };
        job.run = RunStage::Over;
        // What happens after a cancellation is not the reason.
        if !job.is_cancelled() {
            job.error = outcome.err();
        }
        self.settle_outcome(key);
        self.end_in_group(key);
    }

    /// If the job has failed or was cancelled, it aborts.
    fn settle_outcome(&mut self, key: JobKey) {
        let Some(job) = self.job_mut(key) else {
            return;
        };
        if job.error.is_none() && job.is_cancelled() {
            job.error = Some(CANCELLED.to_owned());
        }
        if job.error.is_some() {
            self.become_status(key, JobStatus::Aborting);
        }
    }

    /// The end of a job whose last step is done.
    fn conclude(&mut self, key: JobKey) {
        let Some(job) = self.job(key) else {
            return;
        };
        let was_started = job.was_started;
        let is_dismissed = job.new.auto_dismiss || !was_started;
        let end = match job.is_cancelled() {
            true => Effect::Cancelled(key),
            false => Effect::Completed(key, job.error.clone()),
        };
        if was_started {
            self.effects.push(end);
        }
        self.effects.push(Effect::Release(key));
        self.become_status(key, JobStatus::Concluded);
        if is_dismissed {
            self.forget(key);
        }
    }

    /// Forgets a job that is concluded.
    fn forget(&mut self, key: JobKey) {
        self.become_status(key, JobStatus::Null);
        self.jobs.retain(|job| job.key != key);
        self.effects.push(Effect::Gone(key));
    }

    fn become_status(&mut self, key: JobKey, next: JobStatus) {
        let Some(job) = self.job_mut(key) else {
            return;
        };
        let before = job.status;
        if before == next {
            return;
        }
        debug_assert!(before.may_become(next), "{before} cannot become {next}");
        job.status = next;
        self.effects.push(Effect::Status(key, next));
    }

    fn job(&self, key: JobKey) -> Option<&JobRecord> {
        self.jobs.iter().find(|job| job.key == key)
    }

    fn job_mut(&mut self, key: JobKey) -> Option<&mut JobRecord> {
        self.jobs.iter_mut().find(|job| job.key == key)
    }
}

fn check_id(id: &str) -> Result<()> {
    crate::context::check_id(id, "job-id").map_err(|_| {
        let message = format!("Invalid job ID '{id}'");
        Error::new(ErrorKind::InvalidId, message)
    })
}
