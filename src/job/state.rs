//! The states of a job, and which verbs each allows. They are QEMU's (qapi/job.json).
//!
//! Used by [`super::table`], which changes states, and by those who show them.
#![forbid(unsafe_code)]

use std::fmt;

use crate::{Error, ErrorKind, Result};

/// The state of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobStatus {
    /// Not made yet.
    Undefined,
    /// Made, not started.
    Created,
    /// At work.
    Running,
    /// Waits for a user who paused it.
    Paused,
    /// Has done its work and keeps up to date until it is completed or cancelled.
    Ready,
    /// Ready, and paused by a user.
    Standby,
    /// Has done its work and waits for the other jobs of its transaction.
    Waiting,
    /// Waits for `job-finalize`.
    Pending,
    /// Undoes its work, because of an error or a cancellation.
    Aborting,
    /// Is over; shown until it is dismissed.
    Concluded,
    /// Is gone.
    Null,
}

/// What a user may want of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobVerb {
    /// End it.
    Cancel,
    /// Let it rest.
    Pause,
    /// Let it go on.
    Resume,
    /// Limit its speed.
    SetSpeed,
    /// Leave the state ready.
    Complete,
    /// Make its changes final.
    Finalize,
    /// Forget it.
    Dismiss,
    /// Change its options.
    Change,
}

impl JobStatus {
    /// All states, in QEMU's order.
    pub const ALL: [JobStatus; 11] = [
        JobStatus::Undefined,
        JobStatus::Created,
        JobStatus::Running,
        JobStatus::Paused,
        JobStatus::Ready,
        JobStatus::Standby,
        JobStatus::Waiting,
        JobStatus::Pending,
        JobStatus::Aborting,
        JobStatus::Concluded,
        JobStatus::Null,
    ];

    /// The name in QMP.
    pub fn name(self) -> &'static str {
        match self {
            JobStatus::Undefined => "undefined",
            JobStatus::Created => "created",
            JobStatus::Running => "running",
            JobStatus::Paused => "paused",
            JobStatus::Ready => "ready",
            JobStatus::Standby => "standby",
            JobStatus::Waiting => "waiting",
            JobStatus::Pending => "pending",
            JobStatus::Aborting => "aborting",
            JobStatus::Concluded => "concluded",
            JobStatus::Null => "null",
        }
    }

    /// Whether `next` may follow.
    pub fn may_become(self, next: JobStatus) -> bool {
        use JobStatus::{
            Aborting, Concluded, Created, Null, Paused, Pending, Ready, Running, Standby,
            Undefined, Waiting,
        };
        match self {
            Undefined => next == Created,
            Created => matches!(next, Running | Aborting | Null),
            Running => matches!(next, Paused | Ready | Waiting | Aborting),
            Paused => next == Running,
            Ready => matches!(next, Standby | Waiting | Aborting),
            Standby => next == Ready,
            Waiting => matches!(next, Pending | Aborting),
            Pending => matches!(next, Aborting | Concluded),
            Aborting => next == Concluded,
            Concluded => next == Null,
            Null => false,
        }
    }

    /// Whether `verb` is allowed.
    pub fn allows(self, verb: JobVerb) -> bool {
        let at_work = matches!(
            self,
            JobStatus::Created
                | JobStatus::Running
                | JobStatus::Paused
                | JobStatus::Ready
                | JobStatus::Standby
        );
        match verb {
            JobVerb::Cancel => at_work || matches!(self, JobStatus::Waiting | JobStatus::Pending),
            JobVerb::Pause | JobVerb::Resume | JobVerb::SetSpeed | JobVerb::Change => at_work,
            JobVerb::Complete => self.is_ready(),
            JobVerb::Finalize => self == JobStatus::Pending,
            JobVerb::Dismiss => self == JobStatus::Concluded,
        }
    }

    /// Whether the job is ready, at work or at rest.
    pub fn is_ready(self) -> bool {
        matches!(self, JobStatus::Ready | JobStatus::Standby)
    }
}

impl JobVerb {
    fn name(self) -> &'static str {
        match self {
            JobVerb::Cancel => "cancel",
            JobVerb::Pause => "pause",
            JobVerb::Resume => "resume",
            JobVerb::SetSpeed => "set-speed",
            JobVerb::Complete => "complete",
            JobVerb::Finalize => "finalize",
            JobVerb::Dismiss => "dismiss",
            JobVerb::Change => "change",
        }
    }

    /// Checks that the job `id` accepts this verb in the state `status`.
    pub(super) fn check(self, id: &str, status: JobStatus) -> Result<()> {
        if status.allows(self) {
            return Ok(());
        }
        let message = format!("Job '{id}' in state '{status}' cannot accept command verb '{self}'");
        Err(Error::new(ErrorKind::InvalidArgument, message))
    }
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for JobVerb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobType {
    /// Copies a disk as it is at one moment.
    Backup,
    /// Moves data of an image into its backing file.
    Commit,
    /// Makes an image.
    Create,
    /// Copies a disk and keeps the copy up to date.
    Mirror,
    /// Moves data of backing files into the image above.
    Stream,
}

impl JobType {
    /// The name in QMP.
    pub fn name(self) -> &'static str {
        match self {
            JobType::Backup => "backup",
            JobType::Commit => "commit",
            JobType::Create => "create",
            JobType::Mirror => "mirror",
            JobType::Stream => "stream",
        }
    }

    /// Whether the commands and events of block jobs are for it.
    pub fn is_block_job(self) -> bool {
        self != JobType::Create
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One row per state: the states that may follow, in the order of `ALL`.
    const FOLLOWING: [&str; 11] = [
        "01000000000",
        "00100000101",
        "00011010100",
        "00100000000",
        "00000110100",
        "00001000000",
        "00000001100",
        "00000000110",
        "00000000010",
        "00000000001",
        "00000000000",
    ];

    /// One row per verb: the states that allow it.
    const ALLOWED: [(JobVerb, &str); 8] = [
        (JobVerb::Cancel, "01111111000"),
        (JobVerb::Pause, "01111100000"),
        (JobVerb::Resume, "01111100000"),
        (JobVerb::SetSpeed, "01111100000"),
        (JobVerb::Complete, "00001100000"),
        (JobVerb::Finalize, "00000001000"),
        (JobVerb::Dismiss, "00000000010"),
        (JobVerb::Change, "01111100000"),
    ];

    fn row(of: impl Fn(JobStatus) -> bool) -> String {
        let digits = JobStatus::ALL.map(|status| if of(status) { '1' } else { '0' });
        digits.into_iter().collect()
    }

    #[test]
    fn states_follow_each_other_as_in_qemu() {
        let rows = JobStatus::ALL.map(|status| row(|next| status.may_become(next)));
        assert_eq!(rows, FOLLOWING);
    }

    #[test]
    fn states_allow_the_verbs_as_in_qemu() {
        for (verb, expected) in ALLOWED {
            assert_eq!(row(|status| status.allows(verb)), expected, "{verb}");
        }
        let refused = JobVerb::SetSpeed.check("j", JobStatus::Pending);
        assert_eq!(
            refused.unwrap_err().to_string(),
            "Job 'j' in state 'pending' cannot accept command verb 'set-speed'"
        );
    }
}
