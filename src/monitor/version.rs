//! The version, as the greeting and `query-version` show it.
#![forbid(unsafe_code)]

use crate::object::Value;
use crate::schema::{Member, ObjectType, ValueType};

/// What `query-version` answers.
pub(super) static VERSION_INFO: ObjectType = ObjectType::new(
    "VersionInfo",
    &[
        Member::new("qemu", ValueType::Object(&VERSION_TRIPLE)),
        Member::new("package", ValueType::Str),
    ],
);
static VERSION_TRIPLE: ObjectType = ObjectType::new(
    "VersionTriple",
    &[
        Member::new("major", ValueType::Int),
        Member::new("minor", ValueType::Int),
        Member::new("micro", ValueType::Int),
    ],
);

/// Our version, in the member where clients look for QEMU's.
pub(super) fn version() -> Value {
    let number = |text: &str| Value::from(text.parse::<i64>().unwrap_or(0));
    let numbers = Value::dict([
        ("micro", number(env!("CARGO_PKG_VERSION_PATCH"))),
        ("minor", number(env!("CARGO_PKG_VERSION_MINOR"))),
        ("major", number(env!("CARGO_PKG_VERSION_MAJOR"))),
    ]);
    let package = concat!("qcontext ", env!("CARGO_PKG_VERSION"));
    Value::dict([("qemu", numbers), ("package", package.into())])
}
