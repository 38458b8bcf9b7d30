//! Failed requests of a disk: counted by errno, and reported to those who run the host.
//!
//! Used by the queues, for failures alone: a request that ends well comes nowhere near.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::block::{ErrorAction, Node, Op, Request};
use crate::object::{Dict, Value};
use crate::schema::{EnumType, EventType, Member, ObjectType, ValueType};
use crate::virtio::fault::IoStatus;
use crate::virtio::worker::FailureReport;

/// QEMU's event of a failed request.
pub static BLOCK_IO_ERROR: EventType = EventType::new(
    "BLOCK_IO_ERROR",
    &ObjectType::new(
        "q_obj_BLOCK_IO_ERROR-arg",
        &[
            Member::new("qom-path", ValueType::Str),
            Member::new("device", ValueType::Str),
            Member::optional("node-name", ValueType::Str),
            Member::new("operation", ValueType::Enum(OPERATIONS)),
            Member::new("action", ValueType::Enum(ACTIONS)),
            Member::optional("nospace", ValueType::Bool),
            Member::new("reason", ValueType::Str),
        ],
    ),
);
const OPERATIONS: EnumType = EnumType::new("IoOperationType", &["read", "write"]);
const ACTIONS: EnumType = EnumType::new("BlockErrorAction", &["ignore", "report", "stop"]);

/// How many requests failed with which errno, on all queues of a disk.
#[derive(Debug, Default)]
pub(super) struct FailureCounts(Mutex<BTreeMap<i32, u64>>);

impl FailureCounts {
    pub(super) fn count(&self, errno: i32) {
        *self.lock().entry(errno).or_default() += 1;
    }

    /// The numbers by the names of the errors, for example `{"ENOSPC": 56}`.
    pub(super) fn to_value(&self) -> Value {
        let counts = self.lock().clone();
        let named = counts.into_iter();
        Value::Dict(
            named
                .map(|(errno, count)| (errno_name(errno), count.into()))
                .collect(),
        )
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that failed.
#[derive(Debug)]
pub(super) struct FailedRequest<'a> {
    /// The id of the `-drive`, or empty.
    pub(super) drive: &'a str,
    pub(super) node: &'a Arc<Node>,
    pub(super) request: &'a Request,
    pub(super) errno: i32,
    /// The guest asked for what the disk does not have.
    pub(super) is_guests: bool,
    pub(super) action: ErrorAction,
    /// Some errors of the disk stop the guest.
    pub(super) may_stop: bool,
}

/// Describes a request that failed. If the guest asked for what the disk does not have, there is no event.
pub(super) fn describe(failure: &FailedRequest<'_>) -> FailureReport {
    let FailedRequest { node, request, .. } = failure;
    let reason = error_text(failure.errno);
    let (name, length, offset) = (node.name(), request.length(), request.offset());
    let what = match request.op() {
        Op::Read => format!("read of {length} bytes at {offset}"),
        Op::Write => format!("write of {length} bytes at {offset}"),
        Op::Flush => "flush".to_owned(),
        Op::BlockStatus => format!("block status of {length} bytes at {offset}"),
        Op::Populate => format!("copy of {length} bytes at {offset} from the backing file"),
        Op::Discard => format!("discard of {length} bytes at {offset}"),
        Op::WriteZeroes { .. } => format!("write-zeroes of {length} bytes at {offset}"),
    };
    let more = match failure.action {
        ErrorAction::Ignore => ", which is ignored",
        ErrorAction::Report | ErrorAction::Stop => "",
    };
    let stops = match (failure.action, failure.errno) {
        (ErrorAction::Stop, libc::ENOSPC) => Some(IoStatus::NoSpace),
        (ErrorAction::Stop, _) => Some(IoStatus::Failed),
        _ => None,
    };
    FailureReport {
        reason: format!("{what} of drive '{name}' failed: {reason}{more}"),
        event: (!failure.is_guests).then(|| (&BLOCK_IO_ERROR, event(failure, &reason))),
        stops,
    }
}

/// The data of QEMU's event, without the path of the device.
fn event(failure: &FailedRequest<'_>, reason: &str) -> Dict {
    let operation = match failure.request.op() {
        Op::Read => "read",
        _ => "write",
    };
    let mut data: Dict = vec![
        ("device".to_owned(), failure.drive.into()),
        ("node-name".to_owned(), failure.node.name().into()),
        ("operation".to_owned(), operation.into()),
        ("action".to_owned(), failure.action.name().into()),
    ];
    if failure.may_stop {
        let is_space = failure.errno == libc::ENOSPC;
        data.push(("nospace".to_owned(), is_space.into()));
    }
    data.push(("reason".to_owned(), reason.into()));
    data
}

/// The words of strerror(3).
fn error_text(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    let words = text.rsplit_once(" (os error").map(|(words, _)| words);
    words.unwrap_or(&text).to_owned()
}

/// The name of an error that files and block devices have.
fn errno_name(errno: i32) -> String {
    let name = match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EINTR => "EINTR",
        libc::EIO => "EIO",
        libc::ENXIO => "ENXIO",
        libc::EBADF => "EBADF",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::ENODEV => "ENODEV",
        libc::EINVAL => "EINVAL",
        libc::ENOTTY => "ENOTTY",
        libc::EFBIG => "EFBIG",
        libc::ENOSPC => "ENOSPC",
        libc::EROFS => "EROFS",
        libc::EPIPE => "EPIPE",
        libc::ENODATA => "ENODATA",
        libc::ENOLINK => "ENOLINK",
        libc::EPROTO => "EPROTO",
        libc::EOVERFLOW => "EOVERFLOW",
        libc::EILSEQ => "EILSEQ",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::ECONNRESET => "ECONNRESET",
        libc::ENOBUFS => "ENOBUFS",
        libc::ENOTCONN => "ENOTCONN",
        libc::ESHUTDOWN => "ESHUTDOWN",
        libc::ETIMEDOUT => "ETIMEDOUT",
        libc::ESTALE => "ESTALE",
        libc::EDQUOT => "EDQUOT",
        libc::EREMOTEIO => "EREMOTEIO",
        libc::ECANCELED => "ECANCELED",
        libc::EKEYREJECTED => "EKEYREJECTED",
        _ => return errno.to_string(),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_name() {
        let counts = FailureCounts::default();
        for errno in [libc::ENOSPC, 4000, libc::EIO, libc::ENOSPC] {
            counts.count(errno);
        }
        let expected = [("EIO", 1_u64), ("ENOSPC", 2), ("4000", 1)];
        let expected = expected.map(|(name, count)| (name, Value::from(count)));
        assert_eq!(counts.to_value(), Value::dict(expected));
    }

    #[test]
    fn reasons_are_those_of_the_operating_system_alone() {
        assert_eq!(error_text(libc::ENOSPC), "No space left on device");
    }
}
