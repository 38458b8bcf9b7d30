//! What the table says of a job: to its work, and to clients.
#![forbid(unsafe_code)]

use super::{CancelRequest, JobKey, JobTable};
use crate::job::state::{JobStatus, JobType};

/// What users want of the job at work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // independent facts
pub(in crate::job) struct Wishes {
    /// It is to end, and its changes are undone.
    pub(in crate::job) is_cancelled: bool,
    /// It is ready, and ends without being completed.
    pub(in crate::job) is_soft_cancelled: bool,
    /// It is ready, and is to be completed.
    pub(in crate::job) is_completing: bool,
    /// It is to rest.
    pub(in crate::job) is_pausing: bool,
}

/// What the table knows of a job.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)] // independent facts
pub(in crate::job) struct TableInfo {
    pub(in crate::job) key: JobKey,
    pub(in crate::job) id: String,
    pub(in crate::job) kind: JobType,
    pub(in crate::job) status: JobStatus,
    pub(in crate::job) error: Option<String>,
    pub(in crate::job) is_paused: bool,
    pub(in crate::job) has_io_error: bool,
    pub(in crate::job) auto_finalize: bool,
    pub(in crate::job) auto_dismiss: bool,
}

impl JobTable {
    /// What users want of the job.
    pub(in crate::job) fn wishes(&self, key: JobKey) -> Wishes {
        let Some(job) = self.job(key) else {
            return Wishes::default();
        };
        Wishes {
            is_cancelled: job.is_cancelled(),
            is_soft_cancelled: job.cancel == CancelRequest::Soft,
            is_completing: job.is_completing,
            is_pausing: job.is_user_paused && !job.is_cancelled(),
        }
    }

    /// All jobs, the newest first, as QEMU lists them.
    pub(in crate::job) fn list(&self) -> Vec<TableInfo> {
        let jobs = self.jobs.iter().rev();
        let info = jobs.map(|job| TableInfo {
            key: job.key,
            id: job.new.id.clone(),
            kind: job.new.kind,
            status: job.status,
            error: job.error.clone(),
            is_paused: job.is_user_paused,
            has_io_error: job.has_io_error,
            auto_finalize: job.new.auto_finalize,
            auto_dismiss: job.new.auto_dismiss,
        });
        info.collect()
    }
}
