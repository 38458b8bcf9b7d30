//! Reads `-drive` and `-blockdev` options.
//!
//! Used by [`super::Node`]. Keys, values and error texts are QEMU's, so that people's fingers and scripts work. An
//! option that cannot be kept honestly, such as `cache=unsafe`, is refused with the reason.
#![deny(unsafe_code)] // children that need it say why

use std::borrow::Cow;

use super::engine::uring;
use super::file::{ImageFile, OpenFile};
use super::format::{PROBE_LEN, probe};
use super::node::{Aio, Content, Driver, Node, duplicate_drive, duplicate_node};
use super::null::{DEFAULT_SIZE, Null};
use crate::object::Options;
use crate::object::options::check_id;
use crate::{Error, ErrorKind, Result};

#[cfg(test)]
mod tests;

const NO_FILE_NAME: &str = "The 'file' block driver requires a file name";

type Opened = (String, Driver, Content);

/// What a `-drive` describes.
pub(super) fn drive(mut keys: Options) -> Result<Opened> {
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
    let format = match keys.take_str("format")? {
        Some(format) => Some(format),
        None => keys.take_str("driver")?,
    };
    if format.as_deref() == Some("null-co") {
        let content = null(&mut keys)?;
        keys.finish()?;
        return Ok((name, Driver::NullCo, content));
    }
    if let Some(format) = format.as_deref().filter(|format| *format != "raw") {
        return Err(unsupported_format(format));
    }
    let mut open = OpenFile {
        path: required(&mut keys, "file", NO_FILE_NAME)?,
        ..file_options(&mut keys)?
    };
    apply_cache_mode(&mut keys, &mut open)?;
    if let Some(read_only) = keys.take_bool("readonly")? {
        open.read_only = read_only;
    }
    let aio = aio(&mut keys)?;
    keys.finish()?;
    if format.is_none() {
        refuse_formats(&open.path)?;
    }
    let content = Content::file(open.open()?, aio, open.path);
    Ok((name, Driver::Raw, content))
}

/// What a `-blockdev` describes.
pub(super) fn blockdev(mut keys: Options) -> Result<Opened> {
    let name = required(
        &mut keys,
        "node-name",
        "'node-name' must be specified for the root node",
    )?;
    check_id(&name, "node-name")?;
    Node::check_unused(&name, duplicate_node)?;
    let (driver, content) = content(&mut keys)?;
    keys.finish()?;
    Ok((name, driver, content))
}

/// The node that the remaining keys describe.
fn content(keys: &mut Options) -> Result<(Driver, Content)> {
    match keys.need_str("driver")?.as_str() {
        "null-co" => Ok((Driver::NullCo, null(keys)?)),
        "file" | "host_device" => Ok((Driver::File, file(keys)?)),
        "raw" => Ok((Driver::Raw, raw(keys)?)),
        other => Err(unsupported_format(other)),
    }
}

fn null(keys: &mut Options) -> Result<Content> {
    let length = keys.take_size("size")?.unwrap_or(DEFAULT_SIZE);
    let null = Null {
        read_zeroes: keys.take_bool("read-zeroes")?.unwrap_or(false),
    };
    let read_only = keys.take_bool("read-only")?.unwrap_or(false);
    Ok(Content::null(null, length, read_only))
}

fn file(keys: &mut Options) -> Result<Content> {
    let path = required(keys, "filename", NO_FILE_NAME)?;
    let open = OpenFile {
        path,
        ..file_options(keys)?
    };
    let aio = aio(keys)?;
    Ok(Content::file(open.open()?, aio, open.path))
}

/// A raw node: on top of a node by name, or of one described in place (`file.driver=...`).
fn raw(keys: &mut Options) -> Result<Content> {
    let read_only = keys.take_bool("read-only")?;
    let mut inner = keys.take_group("file")?;
    let mut content = if let Some(name) = keys.take_str("file")? {
        Node::find(&name)?.content()
    } else {
        if inner.is_empty() {
            let message = "A block device must be specified for \"file\"";
            return Err(Error::new(ErrorKind::MissingArgument, message));
        }
        let (_, content) = content(&mut inner)?;
        inner.finish()?;
        content
    };
    if read_only == Some(false) && content.read_only {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            "Block node is read-only",
        ));
    }
    content.read_only |= read_only.unwrap_or(false);
    Ok(content)
}

/// The options of a file that both spellings share.
fn file_options(keys: &mut Options) -> Result<OpenFile> {
    if keys.take_bool("cache.no-flush")?.unwrap_or(false) {
        return Err(unsafe_cache("cache.no-flush=on"));
    }
    let discard = match keys.take_str("discard")?.as_deref() {
        None | Some("unmap" | "on") => true,
        Some("ignore" | "off") => false,
        Some(_) => return Err(invalid("Invalid discard option")),
    };
    let locking = match keys.peek("locking") {
        Some("auto") => keys.take("locking").is_some(),
        _ => keys.take_bool("locking")?.unwrap_or(true),
    };
    Ok(OpenFile {
        path: String::new(),
        read_only: keys.take_bool("read-only")?.unwrap_or(false),
        auto_read_only: keys.take_bool("auto-read-only")?.unwrap_or(false),
        direct: keys.take_bool("cache.direct")?.unwrap_or(false),
        write_through: false,
        discard,
        locking,
    })
}

/// `cache=` of `-drive`.
fn apply_cache_mode(keys: &mut Options, open: &mut OpenFile) -> Result<()> {
    let (direct, write_through) = match keys.take_str("cache")?.as_deref() {
        None => return Ok(()),
        Some("writeback") => (false, false),
        Some("none" | "off") => (true, false),
        Some("writethrough") => (false, true),
        Some("directsync") => (true, true),
        Some("unsafe") => return Err(unsafe_cache("cache=unsafe")),
        Some(_) => return Err(invalid("invalid cache option")),
    };
    open.direct |= direct;
    open.write_through = write_through;
    Ok(())
}

fn unsafe_cache(option: &str) -> Error {
    let message = format!("{option} is not supported: a flush always reaches the file");
    Error::new(ErrorKind::Unsupported, message)
}

fn aio(keys: &mut Options) -> Result<Aio> {
    match keys.take_str("aio")?.as_deref() {
        None if uring::is_available() => Ok(Aio::Uring),
        None | Some("threads") => Ok(Aio::Threads),
        Some("io_uring") if uring::is_available() => Ok(Aio::Uring),
        Some("io_uring") => {
            let message = "aio=io_uring is not allowed by this kernel: use aio=threads";
            Err(Error::new(ErrorKind::Unsupported, message))
        }
        Some("native") => {
            let message = "aio=native is not supported: use aio=io_uring";
            Err(Error::new(ErrorKind::Unsupported, message))
        }
        Some(_) => Err(invalid("invalid aio option")),
    }
}

/// Refuses an image that has another format than raw, when none was given.
fn refuse_formats(path: &str) -> Result<()> {
    let start = ImageFile::first_bytes(path, PROBE_LEN)?;
    let Some(format) = probe(&start) else {
        return Ok(());
    };
    let message = format!(
        "'{path}' is a {format} image, which is not supported: convert it to raw, or give format=raw to serve its \
         bytes as they are"
    );
    Err(Error::new(ErrorKind::Unsupported, message))
}

fn unsupported_format(format: &str) -> Error {
    let message = format!("Unknown driver '{format}': raw, file and null-co are supported");
    Error::new(ErrorKind::InvalidArgument, message)
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
            Err(invalid(message))
        }
        _ => Ok(()),
    }
}

fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
