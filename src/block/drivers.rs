//! The block drivers.
//!
//! Each reads the options that belong to it, opens what is below, and implements
//! [`BlockDriver`](super::driver::BlockDriver).
//!
//! # Adding a driver
//! A format or a filter is a file here, with a line in [`open`] and a name in [`Driver`](super::driver::Driver). If it needs
//! work for each request, it brings a [`Layer`](super::way::task::Layer), whose tasks use its child's way.
#![forbid(unsafe_code)]

use super::driver::{BlockDriver, NewNode};
use crate::object::Options;
use crate::{Error, ErrorKind, Result};

mod blkdebug;
mod child;
pub(super) mod file;
pub(super) mod null;
pub(super) mod raw;

/// Opens the driver that `driver=` names, with the options that belong to it.
pub(super) fn open(keys: &mut Options, node: &NewNode<'_>) -> Result<Box<dyn BlockDriver>> {
    match keys.need_str("driver")?.as_str() {
        "blkdebug" => blkdebug::open(keys, node),
        "null-co" => null::open(keys),
        "file" | "host_device" => file::open(keys),
        "raw" => raw::open(keys, node),
        other => Err(unknown(other)),
    }
}

pub(super) fn unknown(driver: &str) -> Error {
    let message =
        format!("Unknown driver '{driver}': raw, file, null-co and blkdebug are supported");
    Error::new(ErrorKind::InvalidArgument, message)
}
