//! What a job does.
#![forbid(unsafe_code)]

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use super::running::RunningJob;
use super::table::JobStep;
use crate::object::Options;
use crate::{Error, ErrorKind, Result};

/// Work or a step of it, under way.
pub type WorkFuture = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// The work of a job, which runs on the job's AioContext.
pub trait JobWork: fmt::Debug + Send + Sync {
    /// Does the work. It looks at what users want ([`RunningJob::pause_point`], [`RunningJob::is_cancelled`]) at least once per
    /// request. What it answers after a cancellation does not matter.
    fn run(self: Arc<Self>, control: Arc<RunningJob>) -> WorkFuture;

    /// What is to be done when the work is over; `None` if nothing.
    fn step(self: Arc<Self>, step: JobStep, job: Arc<RunningJob>) -> Option<WorkFuture> {
        let _ = (step, job);
        None
    }

    /// Changes options of the job while it works, as `block-job-change` describes them.
    ///
    /// # Errors
    /// The job has no options that can change, or not so.
    fn change(&self, options: Options) -> Result<()> {
        drop(options);
        let message = "Job type does not support change";
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    /// For a mirror: whether what is written to its source is written to its target at the same time, and both are the same.
    fn is_actively_synced(&self) -> Option<bool> {
        None
    }

    /// Whether the job can be ready: done, and going on until it is completed.
    fn has_ready(&self) -> bool {
        false
    }
}
