//! The one error type of the project: a stable kind to match on, a sentence for people, and the operating system's answer.
//!
//! The sentence names the object, the option and what was expected; it stands alone, because monitors and command
//! lines show it as it is. If the operating system's answer means that a limit is reached, the limit follows.
#![forbid(unsafe_code)]

use crate::limit::{self, Resource};
use std::borrow::Cow;
use std::fmt;
use std::io;

/// What went wrong, in the few words a program can act on.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A value is not what the option or the call expects.
    InvalidArgument,
    /// A mandatory option is absent.
    MissingArgument,
    /// A name is not a well-formed identifier.
    InvalidId,
    /// The named thing does not exist.
    NotFound,
    /// The name or the fd is taken.
    AlreadyExists,
    /// The thing is in use and refuses the change.
    Busy,
    /// Only another thread may do this.
    WrongThread,
    /// Waiting here could never end.
    WouldDeadlock,
    /// The context or connection has been shut down.
    Closed,
    /// This build, kernel or configuration cannot do it.
    Unsupported,
    /// The peer broke the protocol.
    Protocol,
    /// A bound that protects the process was reached.
    LimitExceeded,
    /// The monitor knows no such command.
    CommandNotFound,
    /// The monitor knows no such device or object path.
    DeviceNotFound,
    /// The monitor knows no such block job.
    DeviceNotActive,
    /// A system call failed; see [`Error::raw_os_error`].
    Os,
    /// It was taken back before it was done.
    Cancelled,
    /// The code that was to do it panicked.
    Panicked,
}

/// An error: kind, sentence, and the system call's answer if one was behind it.
#[expect(
    clippy::error_impl_error,
    reason = "the one error type, always named through its crate"
)]
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: Cow<'static, str>,
    source: Option<io::Error>,
    limit: Option<Box<str>>,
}

/// The project's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` with a sentence for people.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Error {
            kind,
            message: message.into(),
            source: None,
            limit: None,
        }
    }

    /// A failed system call; `what` says what we were doing and to which object.
    pub fn os(what: impl Into<Cow<'static, str>>, source: io::Error) -> Self {
        Error::limited(what, source, Resource::Fds)
    }

    /// A failed system call that needed a resource which is limited.
    pub fn limited(
        what: impl Into<Cow<'static, str>>,
        source: io::Error,
        wanted: Resource,
    ) -> Self {
        Error {
            kind: ErrorKind::Os,
            message: what.into(),
            limit: limit::explain(&source, wanted).map(String::into_boxed_str),
            source: Some(source),
        }
    }

    /// The error of the last failed libc call of this thread.
    pub fn last_os(what: impl Into<Cow<'static, str>>) -> Self {
        Error::os(what, io::Error::last_os_error())
    }

    /// Names the object that has reached a limit, where the sentence does not. Other errors stay as they are.
    #[must_use]
    pub fn of(mut self, object: &str) -> Self {
        if self.limit.is_some() && !self.message.contains(object) {
            self.message = format!("{object}: {}", self.message).into();
        }
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The errno of the system call behind this error, if one was.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.source.as_ref().and_then(io::Error::raw_os_error)
    }

    /// An errno for interfaces that know nothing else; never 0.
    pub fn errno(&self) -> i32 {
        self.raw_os_error()
            .filter(|&errno| errno != 0)
            .unwrap_or(match self.kind {
                ErrorKind::NotFound | ErrorKind::DeviceNotFound | ErrorKind::DeviceNotActive => {
                    libc::ENOENT
                }
                ErrorKind::AlreadyExists => libc::EEXIST,
                ErrorKind::Busy => libc::EBUSY,
                ErrorKind::WrongThread => libc::EPERM,
                ErrorKind::WouldDeadlock => libc::EDEADLK,
                ErrorKind::Closed => libc::ESHUTDOWN,
                ErrorKind::Unsupported | ErrorKind::CommandNotFound => libc::EOPNOTSUPP,
                ErrorKind::Protocol => libc::EPROTO,
                ErrorKind::LimitExceeded => libc::E2BIG,
                ErrorKind::Os | ErrorKind::Panicked => libc::EIO,
                ErrorKind::Cancelled => libc::ECANCELED,
                _ => libc::EINVAL,
            })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        if let Some(limit) = &self.limit {
            write!(f, "; {limit}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_ref()
            .map(|source| -> &(dyn std::error::Error + 'static) { source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_ends_with_the_system_answer() {
        let error = Error::os(
            "cannot open 'disk0.raw'",
            io::Error::from_raw_os_error(libc::ENOENT),
        );
        assert_eq!(
            error.to_string(),
            "cannot open 'disk0.raw': No such file or directory (os error 2)"
        );
        assert_eq!((error.kind(), error.errno()), (ErrorKind::Os, libc::ENOENT));
    }

    #[test]
    fn an_error_of_a_limit_names_limit_and_object() {
        let limit = |what: &'static str| {
            let none_left = io::Error::from_raw_os_error(libc::EMFILE);
            Error::os(what, none_left).of("context 'a'").to_string()
        };
        let text = limit("cannot create an eventfd");
        let begin = "context 'a': cannot create an eventfd: Too many open files (os error 24); the limit on open files is ";
        assert!(text.starts_with(begin), "{text}");
        let named = limit("cannot name context 'a'");
        assert!(named.starts_with("cannot name context 'a': Too"), "{named}");
        let other = io::Error::from_raw_os_error(libc::EIO);
        let unlimited = Error::os("cannot read", other).of("a").to_string();
        assert_eq!(unlimited, "cannot read: Input/output error (os error 5)");
    }

    #[test]
    fn errno_is_never_zero() {
        let error = Error::os("odd", io::Error::from_raw_os_error(0));
        assert_eq!(error.errno(), libc::EIO);
        assert_eq!(Error::new(ErrorKind::InvalidId, "x").errno(), libc::EINVAL);
    }
}
