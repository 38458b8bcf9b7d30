//! What users want of jobs.
#![forbid(unsafe_code)]

use super::{CancelRequest, Effect, GroupStage, JobKey, JobTable, RunStage};
use crate::job::state::{JobStatus, JobVerb};
use crate::{Error, ErrorKind, Result};

impl JobTable {
    /// Finds a job by its id.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub(in crate::job) fn find(&self, id: &str) -> Result<JobKey> {
        let found = self.jobs.iter().find(|job| job.new.id == id);
        let missing = || Error::new(ErrorKind::NotFound, "Job not found");
        found.map(|job| job.key).ok_or_else(missing)
    }

    /// The same for a block job.
    ///
    /// # Errors
    /// `DeviceNotActive` if there is none.
    pub(in crate::job) fn find_block_job(&self, id: &str) -> Result<JobKey> {
        let mut jobs = self.jobs.iter();
        let found = jobs.find(|job| job.new.id == id && job.new.kind.is_block_job());
        found.map(|job| job.key).ok_or_else(|| {
            let message = format!("Block job '{id}' not found");
            Error::new(ErrorKind::DeviceNotActive, message)
        })
    }

    /// Checks that the job accepts a verb.
    ///
    /// # Errors
    /// It does not in its state.
    pub(in crate::job) fn check_verb(&self, key: JobKey, verb: JobVerb) -> Result<()> {
        self.job(key)
            .map_or(Ok(()), |job| verb.check(&job.new.id, job.status))
    }

    /// Lets the work rest at its next pause point.
    ///
    /// # Errors
    /// It rests already, or its state does not allow that.
    pub(in crate::job) fn pause(&mut self, key: JobKey) -> Result<()> {
        self.check_verb(key, JobVerb::Pause)?;
        if let Some(job) = self.job_mut(key) {
            if job.is_user_paused {
                return Err(invalid("Job is already paused"));
            }
            job.is_user_paused = true;
            self.effects.push(Effect::Wake(key));
        }
        Ok(())
    }

    /// Lets the work go on.
    ///
    /// # Errors
    /// No user has paused it, or its state does not allow that.
    pub(in crate::job) fn resume(&mut self, key: JobKey) -> Result<()> {
        if self.job(key).is_some_and(|job| !job.is_user_paused) {
            return Err(invalid("Can't resume a job that was not paused"));
        }
        self.check_verb(key, JobVerb::Resume)?;
        self.unpause(key);
        Ok(())
    }

    fn unpause(&mut self, key: JobKey) {
        if let Some(job) = self.job_mut(key) {
            job.is_user_paused = false;
            job.has_io_error = false;
            self.effects.push(Effect::Wake(key));
        }
    }

    /// Cancels a job; `force` is false if a ready job need not be aborted.
    ///
    /// # Errors
    /// The state does not allow that.
    pub(in crate::job) fn cancel(&mut self, key: JobKey, force: bool) -> Result<()> {
        self.check_verb(key, JobVerb::Cancel)?;
        let Some(job) = self.job(key) else {
            return Ok(());
        };
        let is_soft = !force && job.new.has_ready && job.status.is_ready();
        let (number, is_final) = (job.group, job.is_final);
        match job.run {
            // Its changes are being made final.
            RunStage::Over if is_final || self.stage(number) == Some(GroupStage::Committing) => {}
            RunStage::Over => {
                self.cancel_one(key, CancelRequest::Force);
                self.abort_group(number, Some(key));
            }
            RunStage::NotStarted => {
                self.cancel_one(key, CancelRequest::Force);
                self.run_over(key, Ok(()));
            }
            RunStage::Going if is_soft => self.cancel_one(key, CancelRequest::Soft),
            RunStage::Going => self.cancel_one(key, CancelRequest::Force),
        }
        Ok(())
    }

    /// The job is going to do what cannot be undone. False if it is cancelled; from now on it cannot be.
    pub(in crate::job) fn begin_final(&mut self, key: JobKey) -> bool {
        let job = self.job_mut(key).filter(|job| !job.is_cancelled());
        job.map(|job| job.is_final = true).is_some()
    }

    /// Cancels a job and no other one of its group.
    pub(super) fn cancel_one(&mut self, key: JobKey, request: CancelRequest) {
        let Some(job) = self.job_mut(key).filter(|job| !job.is_final) else {
            return;
        };
        if job.cancel != CancelRequest::Force {
            job.cancel = request;
        }
        if job.run == RunStage::NotStarted && job.status == JobStatus::Created {
            self.end_unstarted(key);
        }
        self.unpause(key);
    }

    /// A job that never starts has no work to wait for.
    fn end_unstarted(&mut self, key: JobKey) {
        if let Some(job) = self.job_mut(key) {
            job.run = RunStage::Over;
        }
        self.settle_outcome(key);
    }

    /// Cancels a block job as `block-job-cancel` does.
    ///
    /// # Errors
    /// As for [`JobTable::cancel`]; without `force`, a paused job stays.
    pub(in crate::job) fn cancel_block_job(&mut self, key: JobKey, force: bool) -> Result<()> {
        match self.job(key) {
            Some(job) if job.is_user_paused && !force => {
                let id = &job.new.id;
                let message = format!("The block job for device '{id}' is currently paused");
                Err(Error::new(ErrorKind::Busy, message))
            }
            _ => self.cancel(key, force),
        }
    }

    /// Lets a ready job end well.
    ///
    /// # Errors
    /// It is not ready, or was cancelled.
    pub(in crate::job) fn complete(&mut self, key: JobKey) -> Result<()> {
        self.check_verb(key, JobVerb::Complete)?;
        let Some(job) = self.job_mut(key) else {
            return Ok(());
        };
        if job.cancel != CancelRequest::None || !job.new.has_ready {
            let message = format!("The active block job '{}' cannot be completed", job.new.id);
            return Err(Error::new(ErrorKind::Busy, message));
        }
        job.is_completing = true;
        self.effects.push(Effect::Wake(key));
        Ok(())
    }

    /// Makes the changes of a pending job and of its group final.
    ///
    /// # Errors
    /// It is not pending.
    pub(in crate::job) fn finalize(&mut self, key: JobKey) -> Result<()> {
        self.check_verb(key, JobVerb::Finalize)?;
        let group = self.job(key).map(|job| job.group);
        if let Some(number) =
            group.filter(|&number| self.stage(number) == Some(GroupStage::Working))
        {
            self.finalize_group(number);
        }
        Ok(())
    }

    /// Forgets a concluded job.
    ///
    /// # Errors
    /// It is not concluded.
    pub(in crate::job) fn dismiss(&mut self, key: JobKey) -> Result<()> {
        self.check_verb(key, JobVerb::Dismiss)?;
        self.forget(key);
        Ok(())
    }
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
