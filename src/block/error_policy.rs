//! What a job does when one of its requests fails: `on-error`, `on-source-error`, `on-target-error`.
#![forbid(unsafe_code)]

use std::io;

use super::on_error::ErrorAction;
pub(super) use super::on_error::{ON_ERROR, OnError};
use crate::job::{JobErrorAction, JobIo, RunningJob};
use crate::{Error, ErrorKind, Result};

/// A request that fails and is to be repeated waits so long.
pub(super) const REPEATED_AFTER_NS: u64 = 100_000_000;

/// The errors of one job.
#[derive(Debug)]
pub(super) struct ErrorPolicy {
    on_error: OnError,
    /// The first one that was ignored.
    ignored: Option<Error>,
}

impl ErrorPolicy {
    pub(super) fn new(on_error: OnError) -> ErrorPolicy {
        ErrorPolicy {
            on_error,
            ignored: None,
        }
    }

    /// A request has failed. True if it is to be repeated, after the next pause point.
    ///
    /// # Errors
    /// That of the request, if the job is to fail.
    pub(super) fn apply(&mut self, job: &RunningJob, io: JobIo, error: io::Error) -> Result<bool> {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        let action = match self.on_error.action(errno) {
            ErrorAction::Report => JobErrorAction::Report,
            ErrorAction::Ignore => JobErrorAction::Ignore,
            ErrorAction::Stop => JobErrorAction::Stop,
        };
        job.request_failed(io, action);
        let failed = Error::new(ErrorKind::Os, error.to_string());
        match action {
            JobErrorAction::Report => Err(failed),
            JobErrorAction::Stop => Ok(true),
            JobErrorAction::Ignore => {
                self.ignored.get_or_insert(failed);
                Ok(false)
            }
        }
    }

    /// The job has done its work.
    ///
    /// # Errors
    /// The first one that was ignored.
    pub(super) fn finish(self) -> Result<()> {
        self.ignored.map_or(Ok(()), Err)
    }
}
