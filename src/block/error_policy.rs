//! What a job does when one of its requests fails: `on-error`, `on-source-error`, `on-target-error`.
#![forbid(unsafe_code)]

use std::io;

use crate::job::{JobErrorAction, JobIo, RunningJob};
use crate::object::Options;
use crate::schema::EnumType;
use crate::{Error, ErrorKind, Result};

/// The option's values.
pub(super) const ON_ERROR: EnumType = EnumType::new(
    "BlockdevOnError",
    &["report", "ignore", "enospc", "stop", "auto"],
);

/// What the option says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnError {
    Report,
    Ignore,
    /// Stops if there is no space, and reports otherwise.
    NoSpace,
    Stop,
}

impl OnError {
    /// Takes the option. The default is to report.
    pub(super) fn take(options: &mut Options, name: &str) -> Result<OnError> {
        Ok(match options.take_str(name)?.as_deref() {
            Some("ignore") => OnError::Ignore,
            Some("enospc") => OnError::NoSpace,
            Some("stop") => OnError::Stop,
            _ => OnError::Report,
        })
    }

    fn action(self, error: &io::Error) -> JobErrorAction {
        let is_space = error.raw_os_error() == Some(libc::ENOSPC);
        match self {
            OnError::Ignore => JobErrorAction::Ignore,
            OnError::Stop => JobErrorAction::Stop,
            OnError::NoSpace if is_space => JobErrorAction::Stop,
            OnError::NoSpace | OnError::Report => JobErrorAction::Report,
        }
    }
}

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
        let action = self.on_error.action(&error);
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
