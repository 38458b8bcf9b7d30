//! How the jobs of a group finish together.
#![forbid(unsafe_code)]

use super::{CancelRequest, Effect, GroupStage, JobKey, JobRecord, JobStep, JobTable, RunStage};
use crate::job::state::JobStatus;

impl JobTable {
    /// A job has carried out its step. Only the step `Prepare` may fail.
    pub(in crate::job) fn step_done(&mut self, key: JobKey, outcome: Result<(), String>) {
        let Some(number) = self.job(key).map(|job| job.group) else {
            return;
        };
        let stage = self.stage(number);
        self.set_busy(number, false);
        if let (Some(GroupStage::Preparing), Err(error)) = (stage, outcome) {
            self.fail(key, error);
            self.abort_group(number, Some(key));
            return;
        }
        // A group that was cancelled meanwhile has only prepared the job.
        if self.job(key).is_some_and(|job| job.is_settling) {
            self.conclude(key);
        }
        self.advance(number);
    }

    /// The error of a job, unless it was cancelled before.
    fn fail(&mut self, key: JobKey, error: String) {
        if let Some(job) = self.job_mut(key).filter(|job| !job.is_cancelled()) {
            job.error = Some(error);
        }
    }

    /// A job's work is over: it waits for the others of its group, or all are aborted.
    pub(super) fn end_in_group(&mut self, key: JobKey) {
        let Some(ended) = self.job(key) else {
            return;
        };
        let number = ended.group;
        if ended.error.is_some() {
            return self.abort_group(number, Some(key));
        }
        self.become_status(key, JobStatus::Waiting);
        if self.stage(number) != Some(GroupStage::Working) {
            return self.advance(number);
        }
        let is_over = |member: &JobKey| self.is(*member, |job| job.run == RunStage::Over);
        let members = self.members(number);
        if !members.iter().all(is_over) {
            return;
        }
        let mut finalizes = true;
        for member in members {
            self.become_status(member, JobStatus::Pending);
            if self.is(member, |job| !job.new.auto_finalize) {
                finalizes = false;
                self.effects.push(Effect::Pending(member));
            }
        }
        if finalizes {
            self.finalize_group(number);
        }
    }

    /// Makes the changes of all jobs of a group final.
    pub(super) fn finalize_group(&mut self, number: u64) {
        self.set_stage(number, GroupStage::Preparing);
        self.advance(number);
    }

    /// Cancels all jobs of a group but `first`, and aborts them when their work is over.
    pub(super) fn abort_group(&mut self, number: u64, first: Option<JobKey>) {
        let stage = self.stage(number);
        if matches!(stage, Some(GroupStage::Working | GroupStage::Preparing)) {
            self.set_stage(number, GroupStage::Aborting);
            let members = self.members(number).into_iter();
            for key in members.filter(|&key| Some(key) != first) {
                self.cancel_one(key, CancelRequest::Force);
            }
        }
        self.advance(number);
    }

    /// Begins the next step of a group that finishes.
    fn advance(&mut self, number: u64) {
        loop {
            let known = self.groups.iter().find(|group| group.number == number);
            let Some(stage) = known
                .filter(|group| !group.is_busy)
                .map(|group| group.stage)
            else {
                return;
            };
            let members = self.members(number).into_iter();
            let mut left = members.filter(|&member| {
                self.is(member, |job| match stage {
                    GroupStage::Preparing => !job.is_prepared,
                    _ => !job.is_settling,
                })
            });
            match (stage, left.next()) {
                (GroupStage::Working, _) => return,
                (GroupStage::Preparing, Some(key)) => {
                    return self.begin_step(key, JobStep::Prepare);
                }
                (GroupStage::Preparing, None) => self.set_stage(number, GroupStage::Committing),
                (_, Some(key)) => return self.begin_end(key),
                (_, None) => return self.groups.retain(|other| other.number != number),
            }
        }
    }

    /// Commits or aborts a job, if its work is over.
    fn begin_end(&mut self, key: JobKey) {
        if self.job(key).is_none_or(|job| job.run != RunStage::Over) {
            return;
        }
        self.settle_outcome(key);
        let has_failed = self.job(key).is_some_and(|job| job.error.is_some());
        let step = match has_failed {
            true => JobStep::Abort,
            false => JobStep::Commit,
        };
        self.begin_step(key, step);
    }

    fn begin_step(&mut self, key: JobKey, step: JobStep) {
        let Some(job) = self.job_mut(key) else {
            return;
        };
        match step {
            JobStep::Prepare => job.is_prepared = true,
            JobStep::Commit | JobStep::Abort => job.is_settling = true,
        }
        let number = job.group;
        self.set_busy(number, true);
        self.effects.push(Effect::Step(key, step));
    }

    /// The newest job first.
    fn members(&self, number: u64) -> Vec<JobKey> {
        let jobs = self.jobs.iter().rev();
        let members = jobs.filter(|job| job.group == number);
        members.map(|job| job.key).collect()
    }

    pub(super) fn stage(&self, number: u64) -> Option<GroupStage> {
        let mut groups = self.groups.iter();
        let group = groups.find(|group| group.number == number)?;
        Some(group.stage)
    }

    fn is(&self, key: JobKey, question: impl Fn(&JobRecord) -> bool) -> bool {
        self.job(key).is_some_and(question)
    }

    fn set_busy(&mut self, number: u64, is_busy: bool) {
        if let Some(group) = self.groups.iter_mut().find(|group| group.number == number) {
            group.is_busy = is_busy;
        }
    }

    fn set_stage(&mut self, number: u64, stage: GroupStage) {
        if let Some(group) = self.groups.iter_mut().find(|group| group.number == number) {
            group.stage = stage;
        }
    }
}
