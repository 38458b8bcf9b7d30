//! The types of the options of `blkdebug`.
#![forbid(unsafe_code)]

use crate::schema::{EnumType, Member, ObjectType, ValueType};

const EVENT: EnumType = EnumType::new(
    "BlkdebugEvent",
    &[
        "none",
        "read_aio",
        "write_aio",
        "pwritev",
        "pwritev_zero",
        "pwritev_done",
        "flush_to_os",
        "flush_to_disk",
    ],
);
const IO_TYPE: EnumType = EnumType::new(
    "BlkdebugIOType",
    &[
        "read",
        "write",
        "write-zeroes",
        "discard",
        "flush",
        "block-status",
    ],
);
pub(super) const PERMISSION: EnumType = EnumType::new(
    "BlockPermission",
    &["consistent-read", "write", "write-unchanged", "resize"],
);

/// A rule that makes requests fail.
pub(super) static INJECT_ERROR: ObjectType = ObjectType::new(
    "BlkdebugInjectErrorOptions",
    &[
        Member::new("event", ValueType::Enum(EVENT)),
        Member::optional("state", ValueType::Int),
        Member::optional("iotype", ValueType::Enum(IO_TYPE)),
        Member::optional("errno", ValueType::Int),
        Member::optional("sector", ValueType::Int),
        Member::optional("once", ValueType::Bool),
        Member::optional("immediately", ValueType::Bool),
    ],
);

/// A rule that makes requests wait.
pub(super) static INJECT_DELAY: ObjectType = ObjectType::new(
    "BlkdebugInjectDelayOptions",
    &[
        Member::new("event", ValueType::Enum(EVENT)),
        Member::optional("state", ValueType::Int),
        Member::optional("iotype", ValueType::Enum(IO_TYPE)),
        Member::new("ns", ValueType::Int),
        Member::optional("sector", ValueType::Int),
        Member::optional("once", ValueType::Bool),
    ],
);

/// A rule that changes the state.
pub(super) static SET_STATE: ObjectType = ObjectType::new(
    "BlkdebugSetStateOptions",
    &[
        Member::new("event", ValueType::Enum(EVENT)),
        Member::optional("state", ValueType::Int),
        Member::new("new_state", ValueType::Int),
    ],
);
