//! External snapshots: `blockdev-snapshot`, `blockdev-snapshot-sync`.
#![forbid(unsafe_code)]

use crate::schema::{Case, CommandType, EnumType, Member, ObjectType, ValueType};

static SNAPSHOT: ObjectType = ObjectType::new(
    "BlockdevSnapshot",
    &[
        Member::new("node", ValueType::Str),
        Member::new("overlay", ValueType::Str),
    ],
);

pub(super) static BLOCKDEV_SNAPSHOT: CommandType = CommandType::new("blockdev-snapshot", &SNAPSHOT);

static SNAPSHOT_SYNC: ObjectType = ObjectType::new(
    "BlockdevSnapshotSync",
    &[
        Member::optional("device", ValueType::Str),
        Member::optional("node-name", ValueType::Str),
        Member::new("snapshot-file", ValueType::Str),
        Member::optional("snapshot-node-name", ValueType::Str),
        Member::optional("format", ValueType::Str),
        Member::optional(
            "mode",
            ValueType::Enum(EnumType::new(
                "NewImageMode",
                &["existing", "absolute-paths"],
            )),
        ),
    ],
);

pub(super) static BLOCKDEV_SNAPSHOT_SYNC: CommandType =
    CommandType::new("blockdev-snapshot-sync", &SNAPSHOT_SYNC);

/// The same as actions of a transaction.
pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "blockdev-snapshot",
            &[Member::new("data", ValueType::Object(&SNAPSHOT))],
        ),
        Case::new(
            "blockdev-snapshot-sync",
            &[Member::new("data", ValueType::Object(&SNAPSHOT_SYNC))],
        ),
    ]
}
