//! Reads `-drive` and `-blockdev` options.
//!
//! Used by [`super::Node`]. A `-blockdev` is checked against its type first. What belongs to a driver is read by that driver;
//! here is what the two spellings have around it. Keys, values and error texts are QEMU's, so that command lines and scripts for QEMU work here. An option that is
//! not supported, such as `cache=unsafe`, is refused with the reason.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::common::{CommonOptions, check_name, duplicate_node};
use super::driver::{Driver, NewNode};
use super::drivers::file::{FileOptions, NO_FILE_NAME};
use super::drivers::qcow2::Qcow2Options;
use super::drivers::{
    self, BLOCKDEV_OPTIONS, copy_on_read, nbd, null, qcow2, raw, throttle, vdi, vhdx, vmdk,
};
use super::format::{PROBE_LEN, probe};
use super::image::first_bytes;
use super::node::Node;
use super::throttle::{Limits, ThrottleGroup};
use super::way::nbd::server::ServerOptions;
use crate::object::Options;
use crate::schema;
use crate::{Error, ErrorKind, Result};

#[cfg(test)]
mod tests;

impl Node {
    /// Opens what a `-drive` option describes and registers it under its `id`.
    ///
    /// # Errors
    /// As the option's fault is: `InvalidArgument`, `MissingArgument`, `AlreadyExists`, `Unsupported`, `Busy` (the
    /// image is locked) or `Os` (it cannot be opened). Nothing is registered then.
    pub fn open_drive(options: Options) -> Result<Arc<Node>> {
        let node = drive(options)?;
        node.set_drive();
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

/// Opens what a `-drive` describes: a null disk, or an image in a file.
pub(super) fn drive(mut keys: Options) -> Result<Arc<Node>> {
    match keys.take_str("if")?.as_deref() {
        None | Some("none") => {}
        Some(other) => {
            let message =
                format!("if={other} is not supported: use if=none and a -device with drive=");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
    }
    only(&mut keys, "media", "disk")?;
    let name = keys.need_id()?;
    Node::check_unused(&name, duplicate_drive)?;
    let copies = keys.take_bool("copy-on-read")?.unwrap_or(false);
    let limits = take_throttling(&mut keys, &name)?;
    let format = match keys.take_str("format")? {
        Some(format) => Some(format),
        None => keys.take_str("driver")?,
    };
    let mut common = CommonOptions::take(&mut keys)?;
    if matches!(format.as_deref(), Some("vdi" | "vhdx" | "vmdk")) {
        // These are only read.
        common.read_only.get_or_insert(true);
    }
    let open = |node: &NewNode<'_>| match format.as_deref() {
        Some("null-co") => {
            let null = null::open(&mut keys, node)?;
            keys.finish()?;
            Ok(null)
        }
        Some("raw") | None => {
            let file = file_of_drive(&mut keys, node, format.is_none())?;
            raw::over(&file, node)
        }
        Some("qcow2") => {
            let file = file_of_drive(&mut keys, node, false)?;
            qcow2::over(&file, Qcow2Options::plain(), node)
        }
        Some("vdi") => vdi::over(&file_of_drive(&mut keys, node, false)?, node),
        Some("vhdx") => vhdx::over(&file_of_drive(&mut keys, node, false)?, node),
        Some("vmdk") => vmdk::over(&file_of_drive(&mut keys, node, false)?, node),
        Some(other) => Err(drivers::unknown(other)),
    };
    if limits.is_none() && !copies {
        return Node::named(name, common, open);
    }
    let mut child = Node::child(None, common, open)?;
    child.enter(duplicate_node)?;
    let copies = copies && !child.is_read_only();
    let own = CommonOptions::default;
    let Some(throttling) = limits else {
        return match copies {
            true => Node::named(name, own(), |node| copy_on_read::over(&child, node)),
            false => Node::named(name, own(), |node| raw::over(&child, node)),
        };
    };
    if copies {
        let image = child;
        child = Node::child(None, own(), |node| copy_on_read::over(&image, node))?;
        child.enter(duplicate_node)?;
    }
    let group = ThrottleGroup::find_or_create(&throttling.group, throttling.limits)?;
    Node::named(name, own(), |node| throttle::over(&child, group, node))
}

/// What `throttling.*` says.
struct Throttling {
    group: String,
    /// `None` if only a group is given.
    limits: Option<Limits>,
}

/// Takes `throttling.*` of the drive `name`, if there is any.
fn take_throttling(keys: &mut Options, name: &str) -> Result<Option<Throttling>> {
    let mut throttling = keys.take_group("throttling")?;
    if throttling.is_empty() {
        return Ok(None);
    }
    let group = throttling.take_str("group")?;
    let mut limits = Limits::default();
    let has_limits = !throttling.is_empty();
    limits.take(&mut throttling, "")?;
    throttling.finish()?;
    Ok(Some(Throttling {
        group: group.unwrap_or_else(|| name.to_owned()),
        limits: has_limits.then_some(limits),
    }))
}

/// The file of a `-drive`. If it `may_be_other`, an image of another format than raw is refused.
fn file_of_drive(keys: &mut Options, node: &NewNode<'_>, may_be_other: bool) -> Result<Arc<Node>> {
    let path = required(keys, "file", NO_FILE_NAME)?;
    if let Some(server) = nbd::parse_file_name(&path)? {
        return server_of_drive(keys, node, server, may_be_other);
    }
    let mut file = FileOptions::take(keys, node.common, path)?;
    if let Some(mode) = keys.take_str("cache")? {
        file.set_cache_mode(&mode)?;
    }
    if let Some(read_only) = keys.take_bool("readonly")? {
        file.image.read_only = read_only;
    }
    keys.finish()?;
    if may_be_other {
        refuse_formats(&file.image.path)?;
    }
    let common = CommonOptions::default();
    let child = Node::child(None, common, |new| file.open(Driver::File, new))?;
    child.enter(duplicate_node)?;
    Ok(child)
}

/// The export that the `file` of a `-drive` names.
fn server_of_drive(
    keys: &mut Options,
    node: &NewNode<'_>,
    server: ServerOptions,
    may_be_other: bool,
) -> Result<Arc<Node>> {
    if may_be_other {
        let message = "an NBD export needs format=raw or format=qcow2";
        return Err(Error::new(ErrorKind::MissingArgument, message));
    }
    let mut common = node.common.clone();
    if let Some(read_only) = keys.take_bool("readonly")? {
        common.read_only = Some(read_only);
    }
    keys.finish()?;
    let passed_on = common.clone();
    let child = Node::child(None, common, |_| nbd::connect(server, &passed_on))?;
    child.enter(duplicate_node)?;
    Ok(child)
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

/// Refuses an image that has another format than raw, when none was given.
fn refuse_formats(path: &str) -> Result<()> {
    let start = first_bytes(path, PROBE_LEN)?;
    let Some(format) = probe(&start) else {
        return Ok(());
    };
    let advice = match format {
        "qcow2" => "give format=qcow2",
        "vdi" => "give format=vdi",
        "vhdx" => "give format=vhdx",
        "vmdk" => "give format=vmdk",
        _ => "which is not supported: convert it to raw",
    };
    let message = format!(
        "'{path}' is a {format} image, {advice}, or give format=raw to serve its bytes as they are"
    );
    Err(Error::new(ErrorKind::Unsupported, message))
}

/// The value of `key`, or an error that says `message`.
fn required(keys: &mut Options, key: &str, message: &'static str) -> Result<String> {
    let missing = || Error::new(ErrorKind::MissingArgument, message);
    keys.take_str(key)?.ok_or_else(missing)
}

/// Checks that `key`, if given, has the one value that is supported.
fn only(keys: &mut Options, key: &str, accepted: &str) -> Result<()> {
    match keys.take_str(key)? {
        Some(value) if value != accepted => {
            let message = format!("Parameter '{key}' does not accept value '{value}'");
            Err(Error::new(ErrorKind::InvalidArgument, message))
        }
        _ => Ok(()),
    }
}

fn duplicate_drive(name: &str) -> Error {
    let message = format!("Duplicate ID '{name}' for drive");
    Error::new(ErrorKind::AlreadyExists, message)
}
