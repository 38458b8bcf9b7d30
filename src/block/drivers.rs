//! The block drivers.
//!
//! Each reads the options that belong to it, opens what is below, and implements [`BlockDriver`].
//!
//! # Adding a driver
//! A format or a filter is a file here with a [`DriverType`], which stands in [`DRIVERS`], and a name in
//! [`Driver`](super::driver::Driver). If it needs work for each request, it brings a [`Layer`](super::way::task::Layer), whose
//! tasks use its child's way.
#![deny(unsafe_code)] // children that need it say why

use super::common::MEMBERS;
use super::driver::{BlockDriver, NewNode};
use crate::object::Options;
use crate::schema::{AlternateType, Case, Member, ObjectType, ValueType, Variants};
use crate::{Error, ErrorKind, Result};

pub(super) mod backing;
mod blkdebug;
pub(super) mod child;
pub(super) mod copy_before_write;
pub(super) mod copy_on_read;
pub(super) mod file;
mod mapped;
pub(super) mod nbd;
pub(super) mod null;
pub(super) mod qcow2;
pub(super) mod raw;
pub(super) mod snapshot_access;
pub(super) mod throttle;
pub(super) mod vdi;
pub(super) mod vhdx;
pub(super) mod vmdk;

/// A driver, as options name it.
pub(super) struct DriverType {
    /// What `driver=` says.
    pub(super) name: &'static str,
    /// Its options besides those of every node.
    pub(super) members: &'static [Member],
    /// Opens a node with the options that are left.
    pub(super) open: fn(&mut Options, &NewNode<'_>) -> Result<Box<dyn BlockDriver>>,
}

const DRIVERS: [&DriverType; 14] = [
    &blkdebug::BLKDEBUG,
    &copy_before_write::COPY_BEFORE_WRITE,
    &copy_on_read::COPY_ON_READ,
    &file::FILE,
    &file::HOST_DEVICE,
    &nbd::NBD,
    &null::NULL_CO,
    &qcow2::QCOW2,
    &raw::RAW,
    &snapshot_access::SNAPSHOT_ACCESS,
    &throttle::THROTTLE,
    &vdi::VDI,
    &vhdx::VHDX,
    &vmdk::VMDK,
];

/// What `-blockdev` and `blockdev-add` describe.
pub static BLOCKDEV_OPTIONS: ObjectType = ObjectType::tagged(
    "BlockdevOptions",
    &MEMBERS,
    Variants {
        tag: "driver",
        tag_type: "BlockdevDriver",
        cases: || {
            let case = |driver: &&DriverType| Case::new(driver.name, driver.members);
            DRIVERS.iter().map(case).collect()
        },
    },
);

/// A child: a node by name, or one that is described in place.
pub(super) static BLOCKDEV_REF: AlternateType = AlternateType {
    name: "BlockdevRef",
    branches: &[ValueType::Object(&BLOCKDEV_OPTIONS), ValueType::Str],
};

/// A child that may be absent on purpose.
pub(super) static BLOCKDEV_REF_OR_NULL: AlternateType = AlternateType {
    name: "BlockdevRefOrNull",
    branches: &[
        ValueType::Object(&BLOCKDEV_OPTIONS),
        ValueType::Str,
        ValueType::Null,
    ],
};

/// The names of all drivers.
pub(super) fn names() -> Vec<&'static str> {
    DRIVERS.iter().map(|driver| driver.name).collect()
}

/// Opens the driver that `driver=` names, with the options that belong to it.
pub(super) fn open(keys: &mut Options, node: &NewNode<'_>) -> Result<Box<dyn BlockDriver>> {
    let name = keys.need_str("driver")?;
    let driver = DRIVERS.iter().find(|driver| driver.name == name);
    let driver = driver.ok_or_else(|| unknown(&name))?;
    (driver.open)(keys, node)
}

/// What the driver calls its children.
pub(super) fn child_roles(driver: &str) -> Vec<&'static str> {
    let known = DRIVERS.iter().find(|known| known.name == driver);
    let members = known.map_or(&[][..], |known| known.members).iter();
    let is_child = |member: &&Member| match member.value {
        ValueType::Alternate(of) => {
            of.name == BLOCKDEV_REF.name || of.name == BLOCKDEV_REF_OR_NULL.name
        }
        _ => false,
    };
    members.filter(is_child).map(|member| member.name).collect()
}

/// Whether an option of an open node may change.
pub(super) fn may_change(driver: &str, option: &str) -> bool {
    const OF_ALL: [&str; 6] = [
        "read-only",
        "auto-read-only",
        "cache.direct",
        "cache.no-flush",
        "discard",
        "detect-zeroes",
    ];
    OF_ALL.contains(&option)
        || matches!(
            (driver, option),
            ("throttle", "throttle-group") | ("raw", "offset" | "size")
        )
}

pub(super) fn unknown(driver: &str) -> Error {
    let message = format!(
        "Unknown driver '{driver}': the drivers are {}",
        names().join(", ")
    );
    Error::new(ErrorKind::InvalidArgument, message)
}
