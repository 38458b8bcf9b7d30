//! Reads `-drive` and `-blockdev` options.
//!
//! Used by [`super::Node`]. A `-blockdev` is checked against its type first. What belongs to a driver is read by that driver;
//! here is what the two spellings have around it, that of [`mod@drive`] in a file of its own. Keys, values and error texts are QEMU's, so that command lines and scripts for QEMU work here. An option that is
//! not supported, such as `cache=unsafe`, is refused with the reason.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::common::{CommonOptions, check_name, duplicate_node};
use super::drivers::{self, BLOCKDEV_OPTIONS};
use super::node::Node;
use super::on_error::ErrorRules;
use crate::object::Options;
use crate::schema;
use crate::{Error, ErrorKind, Result};

mod drive;
#[cfg(test)]
mod tests;

pub(super) use drive::drive;
use drive::duplicate_drive;

impl Node {
    /// Opens what a `-drive` option describes and registers it under its `id`.
    ///
    /// # Errors
    /// As the option's fault is: `InvalidArgument`, `MissingArgument`, `AlreadyExists`, `Unsupported`, `Busy` (the
    /// image is locked) or `Os` (it cannot be opened). Nothing is registered then.
    pub fn open_drive(mut options: Options) -> Result<Arc<Node>> {
        let rules = ErrorRules::take_of_drive(&mut options)?;
        let node = drive(options)?;
        node.set_drive(rules);
        node.enter_owned(duplicate_drive)?;
        Ok(node)
    }

    /// Opens what a `-blockdev` option describes and registers it under its `node-name`.
    ///
    /// # Errors
    /// As for [`open_drive`](Node::open_drive).
    pub fn open_blockdev(options: Options) -> Result<Arc<Node>> {
        let node = blockdev(options)?;
        node.enter_owned(duplicate_node)?;
        Ok(node)
    }
}

/// Opens what a `-blockdev` describes.
pub(super) fn blockdev(options: Options) -> Result<Arc<Node>> {
    let mut keys = schema::check(&BLOCKDEV_OPTIONS, options)?.into_dotted();
    let own = keys.clone().into_entries();
    let name = required(
        &mut keys,
        "node-name",
        "'node-name' must be specified for the root node",
    )?;
    check_name(&name)?;
    Node::check_unused(&name, duplicate_node)?;
    let common = CommonOptions::take(&mut keys)?;
    let node = Node::named(name, common, |node| {
        let opened = drivers::open(&mut keys, node)?;
        keys.finish()?;
        Ok(opened)
    })?;
    node.set_options(own);
    Ok(node)
}

/// The value of `key`, or an error that says `message`.
fn required(keys: &mut Options, key: &str, message: &'static str) -> Result<String> {
    let missing = || Error::new(ErrorKind::MissingArgument, message);
    keys.take_str(key)?.ok_or_else(missing)
}
