//! What `-drive` describes: an image in a file, an NBD export or a null disk, below what limits its requests and keeps what is read.
//!
//! A node keeps the options that a `-blockdev` would have, so that it can be opened anew and get other children.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::required;
use crate::block::common::{CommonOptions, duplicate_node};
use crate::block::driver::{BlockDriver, Driver, NewNode};
use crate::block::drivers::file::{CacheMode, FileOptions, NO_FILE_NAME};
use crate::block::drivers::qcow2::Qcow2Options;
use crate::block::drivers::{self, copy_on_read, nbd, null, qcow2, raw, throttle, vdi, vhdx, vmdk};
use crate::block::format::{PROBE_LEN, probe};
use crate::block::image::first_bytes;
use crate::block::node::Node;
use crate::block::throttle::{Limits, ThrottleGroup};
use crate::block::way::nbd::server::ServerOptions;
use crate::object::{Dict, Options, Value};
use crate::{Error, ErrorKind, Result};

/// Opens a drive, which is not registered yet.
pub(in crate::block) fn drive(mut keys: Options) -> Result<Arc<Node>> {
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
    let throttling = take_throttling(&mut keys, &name)?;
    let image = DriveImage::take(&mut keys)?;
    if throttling.is_none() && !copies {
        return image.open(Some(name), keys);
    }
    let image = image.open(None, keys)?;
    image.enter(duplicate_node)?;
    let copies = copies && !image.is_read_only();
    let Some(throttling) = throttling else {
        return match copies {
            true => filter(Some(name), &image, "copy-on-read", |node| {
                copy_on_read::over(&image, node)
            }),
            false => filter(Some(name), &image, "raw", |node| raw::over(&image, node)),
        };
    };
    let mut below = Arc::clone(&image);
    if copies {
        below = filter(None, &image, "copy-on-read", |node| {
            copy_on_read::over(&image, node)
        })?;
        below.enter(duplicate_node)?;
    }
    let group_name = throttling.group;
    let group = ThrottleGroup::find_or_create(&group_name, throttling.limits)?;
    let top = filter(Some(name), &below, "throttle", |node| {
        throttle::over(&below, group, node)
    })?;
    let mut options = top.options();
    options.push(("throttle-group".to_owned(), group_name.into()));
    top.set_options(options);
    Ok(top)
}

/// A node over `child`.
fn filter(
    name: Option<String>,
    child: &Arc<Node>,
    driver: &str,
    open: impl FnOnce(&NewNode<'_>) -> Result<Box<dyn BlockDriver>>,
) -> Result<Arc<Node>> {
    let node = make(name, CommonOptions::default(), open)?;
    node.set_options(vec![
        ("driver".to_owned(), driver.into()),
        ("file".to_owned(), child.name().into()),
    ]);
    Ok(node)
}

/// A node of this name, or one with a generated name.
fn make(
    name: Option<String>,
    common: CommonOptions,
    open: impl FnOnce(&NewNode<'_>) -> Result<Box<dyn BlockDriver>>,
) -> Result<Arc<Node>> {
    match name {
        Some(name) => Node::named(name, common, open),
        None => Node::child(None, common, open),
    }
}

/// The image of a drive.
struct DriveImage {
    /// `None` if the options do not say.
    format: Option<String>,
    common: CommonOptions,
    write_through: bool,
}

impl DriveImage {
    fn take(keys: &mut Options) -> Result<DriveImage> {
        let format = match keys.take_str("format")? {
            Some(format) => Some(format),
            None => keys.take_str("driver")?,
        };
        let mut image = DriveImage {
            common: CommonOptions::take(keys)?,
            write_through: false,
            format,
        };
        if matches!(image.format.as_deref(), Some("vdi" | "vhdx" | "vmdk")) {
            // These are only read.
            image.common.read_only.get_or_insert(true);
        }
        if image.format.as_deref() != Some("null-co") {
            image.take_modes(keys)?;
        }
        Ok(image)
    }

    /// Takes what only the options of drives say in this way.
    fn take_modes(&mut self, keys: &mut Options) -> Result<()> {
        if let Some(read_only) = keys.take_bool("readonly")? {
            self.common.read_only = Some(read_only);
        }
        let file = keys.peek("file").unwrap_or_default();
        if nbd::parse_file_name(file)?.is_some() {
            return Ok(());
        }
        if let Some(mode) = keys.take_str("cache")? {
            let mode = CacheMode::parse(&mode)?;
            self.write_through = mode.write_through;
            if mode.direct {
                self.common.direct = Some(true);
            }
        }
        Ok(())
    }

    /// Opens it with the options that are left.
    fn open(self, name: Option<String>, mut keys: Options) -> Result<Arc<Node>> {
        let mut own = self.common.to_dict();
        let driver = self.format.as_deref().unwrap_or("raw");
        own.push(("driver".to_owned(), driver.into()));
        let node = make(name, self.common.clone(), |node| {
            if driver == "null-co" {
                let mut given = keys.clone();
                add(&mut own, "size", given.take_size("size")?);
                add(&mut own, "read-zeroes", given.take_bool("read-zeroes")?);
                let opened = null::open(&mut keys, node)?;
                keys.finish()?;
                return Ok(opened);
            }
            if !["raw", "qcow2", "vdi", "vhdx", "vmdk"].contains(&driver) {
                return Err(drivers::unknown(driver));
            }
            let file = self.file(keys)?;
            own.extend(as_child(&file));
            match driver {
                "qcow2" => qcow2::over(&file, Qcow2Options::plain(), node),
                "vdi" => vdi::over(&file, node),
                "vhdx" => vhdx::over(&file, node),
                "vmdk" => vmdk::over(&file, node),
                _ => raw::over(&file, node),
            }
        })?;
        node.set_options(own);
        Ok(node)
    }

    /// The file with the image.
    fn file(&self, mut keys: Options) -> Result<Arc<Node>> {
        let path = required(&mut keys, "file", NO_FILE_NAME)?;
        let common = self.common.of_file();
        let mut own: Dict = vec![("driver".to_owned(), "file".into())];
        if let Some(server) = nbd::parse_file_name(&path)? {
            return self.server(keys, server);
        }
        add(&mut own, "filename", Some(path.as_str()));
        for key in ["aio", "locking"] {
            add(&mut own, key, keys.peek(key));
        }
        own.extend(common.own_of_file());
        let mut file = FileOptions::take(&mut keys, &common, path)?;
        file.image.write_through = self.write_through;
        keys.finish()?;
        if self.format.is_none() {
            refuse_formats(&file.image.path)?;
        }
        let child = Node::child(None, common, |new| file.open(Driver::File, new))?;
        child.set_options(own);
        child.enter(duplicate_node)?;
        Ok(child)
    }

    /// The export with the image. It keeps no options: it cannot be opened anew.
    fn server(&self, keys: Options, server: ServerOptions) -> Result<Arc<Node>> {
        if self.format.is_none() {
            let message = "an NBD export needs format=raw or format=qcow2";
            return Err(Error::new(ErrorKind::MissingArgument, message));
        }
        keys.finish()?;
        let common = self.common.clone();
        let passed_on = common.clone();
        let child = Node::child(None, common, |_| nbd::connect(server, &passed_on))?;
        child.enter(duplicate_node)?;
        Ok(child)
    }
}

/// The child `file` in the options of the node above: described there if it has options.
fn as_child(file: &Node) -> Dict {
    let own = file.options();
    if own.is_empty() {
        return vec![("file".to_owned(), file.name().into())];
    }
    let members = own.into_iter();
    members
        .map(|(key, value)| (format!("file.{key}"), value))
        .collect()
}

fn add(options: &mut Dict, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        options.push((key.to_owned(), value.into()));
    }
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

pub(super) fn duplicate_drive(name: &str) -> Error {
    let message = format!("Duplicate ID '{name}' for drive");
    Error::new(ErrorKind::AlreadyExists, message)
}
