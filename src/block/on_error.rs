//! What is done about a failed request: QEMU's `report`, `ignore`, `enospc` and `stop`.
//!
//! Used for the requests of guests (`werror` and `rerror`) and for those of jobs (`on-error`).
#![forbid(unsafe_code)]

use super::request::Op;
use crate::object::Options;
use crate::schema::EnumType;
use crate::{Error, ErrorKind, Result};

/// The option's values.
#[doc(hidden)] // for the schema
pub const ON_ERROR: EnumType = EnumType::new(
    "BlockdevOnError",
    &["report", "ignore", "enospc", "stop", "auto"],
);

/// What queries say about a disk's or a job's last failed request.
#[doc(hidden)] // for the schema
pub const IO_STATUS: EnumType = EnumType::new("BlockDeviceIoStatus", &["ok", "failed", "nospace"]);

/// What an option of this kind says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// Who made the request gets the error.
    Report,
    /// The request counts as done.
    Ignore,
    /// Stops if there is no space, and reports otherwise.
    NoSpace,
    /// Whoever makes requests stops; the request is repeated when that goes on.
    Stop,
}

/// What is done about one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorAction {
    /// See [`OnError::Report`].
    Report,
    /// See [`OnError::Ignore`].
    Ignore,
    /// See [`OnError::Stop`].
    Stop,
}

/// What is done about the failed requests of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorRules {
    /// `rerror`: about reads.
    pub read: OnError,
    /// `werror`: about all other requests.
    pub write: OnError,
}

impl OnError {
    /// Takes the option, whose value was checked. The default is to report.
    pub(super) fn take(options: &mut Options, name: &str) -> Result<OnError> {
        let value = options.take_str(name)?;
        let known = value.as_deref().and_then(OnError::from_name);
        Ok(known.unwrap_or(OnError::Report))
    }

    /// Takes an option of a device; `None` stands for what the drive says.
    ///
    /// # Errors
    /// The value is none of those in [`ON_ERROR`].
    pub fn take_of_device(options: &mut Options, name: &str) -> Result<Option<OnError>> {
        match options.take_str(name)?.as_deref() {
            None | Some("auto") => Ok(None),
            Some(value) => match OnError::from_name(value) {
                Some(known) => Ok(Some(known)),
                None => {
                    let message = format!("Parameter '{name}' does not accept value '{value}'");
                    Err(Error::new(ErrorKind::InvalidArgument, message))
                }
            },
        }
    }

    fn from_name(name: &str) -> Option<OnError> {
        let all = [
            OnError::Report,
            OnError::Ignore,
            OnError::NoSpace,
            OnError::Stop,
        ];
        all.into_iter().find(|one| one.name() == name)
    }

    /// The option's value.
    pub fn name(self) -> &'static str {
        match self {
            OnError::Report => "report",
            OnError::Ignore => "ignore",
            OnError::NoSpace => "enospc",
            OnError::Stop => "stop",
        }
    }

    /// What is done about an error with this number.
    pub fn action(self, errno: i32) -> ErrorAction {
        match self {
            OnError::Ignore => ErrorAction::Ignore,
            OnError::Stop => ErrorAction::Stop,
            OnError::NoSpace if errno == libc::ENOSPC => ErrorAction::Stop,
            OnError::NoSpace | OnError::Report => ErrorAction::Report,
        }
    }

    fn may_stop(self) -> bool {
        matches!(self, OnError::NoSpace | OnError::Stop)
    }
}

impl ErrorAction {
    /// QEMU's name of it.
    pub fn name(self) -> &'static str {
        match self {
            ErrorAction::Report => "report",
            ErrorAction::Ignore => "ignore",
            ErrorAction::Stop => "stop",
        }
    }
}

impl ErrorRules {
    /// Reports all errors.
    pub const REPORT: ErrorRules = ErrorRules {
        read: OnError::Report,
        write: OnError::Report,
    };

    /// Takes `rerror` and `werror` of a `-drive`.
    ///
    /// # Errors
    /// A value is none of those that a drive takes.
    pub(super) fn take_of_drive(options: &mut Options) -> Result<ErrorRules> {
        let mut rules = ErrorRules::default();
        if let Some(value) = options.take_str("werror")? {
            rules.write = OnError::from_name(&value).ok_or_else(|| bad_action(&value, "write"))?;
        }
        if let Some(value) = options.take_str("rerror")? {
            let known = OnError::from_name(&value).filter(|one| *one != OnError::NoSpace);
            rules.read = known.ok_or_else(|| bad_action(&value, "read"))?;
        }
        Ok(rules)
    }

    /// What is done about a request that failed with this number.
    pub fn action(self, op: Op, errno: i32) -> ErrorAction {
        match op {
            Op::Read => self.read.action(errno),
            _ => self.write.action(errno),
        }
    }

    /// Whether some error stops the guest.
    pub fn may_stop(self) -> bool {
        self.read.may_stop() || self.write.may_stop()
    }
}

impl Default for ErrorRules {
    /// QEMU's: a full disk stops the guest.
    fn default() -> ErrorRules {
        ErrorRules {
            read: OnError::Report,
            write: OnError::NoSpace,
        }
    }
}

fn bad_action(value: &str, requests: &str) -> Error {
    let message = format!("'{value}' invalid {requests} error action");
    Error::new(ErrorKind::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::options;

    fn of_drive(text: &str) -> Result<ErrorRules> {
        ErrorRules::take_of_drive(&mut options::parse(None, text).unwrap())
    }

    #[test]
    fn a_drive_stops_for_space_alone_unless_told_otherwise() {
        let rules = of_drive("id=d0").unwrap();
        assert_eq!(rules.action(Op::Write, libc::ENOSPC), ErrorAction::Stop);
        assert_eq!(rules.action(Op::Flush, libc::EIO), ErrorAction::Report);
        assert_eq!(rules.action(Op::Read, libc::ENOSPC), ErrorAction::Report);
        assert!(rules.may_stop());
        let told = of_drive("werror=ignore,rerror=stop").unwrap();
        assert_eq!(told.action(Op::Discard, libc::EIO), ErrorAction::Ignore);
        assert_eq!(told.action(Op::Read, libc::EIO), ErrorAction::Stop);
        assert!(!ErrorRules::REPORT.may_stop());
    }

    #[test]
    fn a_drive_refuses_what_qemu_refuses_in_its_words() {
        for (text, expected) in [
            ("werror=auto", "'auto' invalid write error action"),
            ("werror=panic", "'panic' invalid write error action"),
            ("rerror=enospc", "'enospc' invalid read error action"),
        ] {
            assert_eq!(of_drive(text).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_device_takes_more_and_auto_is_the_drives() {
        let take = |text: &str| {
            let mut options = options::parse(None, text).unwrap();
            OnError::take_of_device(&mut options, "rerror").map_err(|error| error.to_string())
        };
        assert_eq!(take("id=x"), Ok(None));
        assert_eq!(take("rerror=auto"), Ok(None));
        assert_eq!(take("rerror=enospc"), Ok(Some(OnError::NoSpace)));
        let refused = "Parameter 'rerror' does not accept value 'panic'".to_owned();
        assert_eq!(take("rerror=panic"), Err(refused));
    }
}
