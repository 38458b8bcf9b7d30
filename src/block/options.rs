//! Reads `-drive` and `-blockdev` options.
//!
//! Used by [`super::Node`]. Keys, values and error texts are QEMU's, so that people's fingers and scripts work. An
//! option that cannot be kept honestly, such as `cache=unsafe`, is refused with the reason.
#![deny(unsafe_code)] // children that need it say why

use super::engine::uring;
use super::file::{ImageFile, OpenFile};
use super::format::{PROBE_LEN, probe};
use super::node::{Aio, Content, Driver, Node, duplicate_drive, duplicate_node};
use super::null::{DEFAULT_SIZE, Null};
use crate::{Error, ErrorKind, Result};

mod keys;
#[cfg(test)]
mod tests;

use keys::Keys;

type Opened = (String, Driver, Content);

/// What a `-drive` describes.
pub(super) fn drive(options: &[(String, String)]) -> Result<Opened> {
    let mut keys = Keys::new(options);
    match keys.take("if") {
        None | Some("none") => {}
        Some(other) => {
            let message =
                format!("if={other} is not supported: use if=none and a -device with drive=");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
    }
    keys.only("media", &["disk"])?;
    let name = keys.required("id")?;
    check_id(&name, "id")?;
    Node::check_unused(&name, duplicate_drive)?;
    let format = match keys.take("format") {
        Some(format) => Some(format),
        None => keys.take("driver"),
    };
    if format == Some("null-co") {
        let content = null(&mut keys)?;
        keys.finish()?;
        return Ok((name, Driver::NullCo, content));
    }
    if let Some(format) = format.filter(|format| *format != "raw") {
        return Err(unsupported_format(format));
    }
    let mut open = OpenFile {
        path: keys.required_text("file", "The 'file' block driver requires a file name")?,
        ..file_options(&mut keys)?
    };
    apply_cache_mode(&mut keys, &mut open)?;
    if let Some(read_only) = keys.bool("readonly")? {
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
pub(super) fn blockdev(options: &[(String, String)]) -> Result<Opened> {
    let mut keys = Keys::new(options);
    let name = keys.required_text(
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
fn content(keys: &mut Keys<'_>) -> Result<(Driver, Content)> {
    match keys.required("driver")?.as_str() {
        "null-co" => Ok((Driver::NullCo, null(keys)?)),
        "file" | "host_device" => Ok((Driver::File, file(keys)?)),
        "raw" => Ok((Driver::Raw, raw(keys)?)),
        other => Err(unsupported_format(other)),
    }
}

fn null(keys: &mut Keys<'_>) -> Result<Content> {
    let length = keys.size("size")?.unwrap_or(DEFAULT_SIZE);
    let null = Null {
        read_zeroes: keys.bool("read-zeroes")?.unwrap_or(false),
    };
    let read_only = keys.bool("read-only")?.unwrap_or(false);
    Ok(Content::null(null, length, read_only))
}

fn file(keys: &mut Keys<'_>) -> Result<Content> {
    let path = keys.required_text("filename", "The 'file' block driver requires a file name")?;
    let open = OpenFile {
        path,
        ..file_options(keys)?
    };
    let aio = aio(keys)?;
    Ok(Content::file(open.open()?, aio, open.path))
}

/// A raw node: on top of a node by name, or of one described in place (`file.driver=...`).
fn raw(keys: &mut Keys<'_>) -> Result<Content> {
    let read_only = keys.bool("read-only")?;
    let mut content = if let Some(name) = keys.take("file") {
        Node::find(name)?.content()
    } else {
        let inner = keys.take_nested("file");
        if inner.is_empty() {
            let message = "A block device must be specified for \"file\"";
            return Err(Error::new(ErrorKind::MissingArgument, message));
        }
        let mut inner = Keys::new(&inner);
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
fn file_options(keys: &mut Keys<'_>) -> Result<OpenFile> {
    if keys.bool("cache.no-flush")?.unwrap_or(false) {
        return Err(unsafe_cache("cache.no-flush=on"));
    }
    let discard = match keys.take("discard") {
        None | Some("unmap" | "on") => true,
        Some("ignore" | "off") => false,
        Some(_) => return Err(invalid("Invalid discard option")),
    };
    let locking = match keys.take("locking") {
        Some("auto") => true,
        Some(other) => keys::parse_bool("locking", other)?,
        None => true,
    };
    Ok(OpenFile {
        path: String::new(),
        read_only: keys.bool("read-only")?.unwrap_or(false),
        auto_read_only: keys.bool("auto-read-only")?.unwrap_or(false),
        direct: keys.bool("cache.direct")?.unwrap_or(false),
        write_through: false,
        discard,
        locking,
    })
}

/// `cache=` of `-drive`.
fn apply_cache_mode(keys: &mut Keys<'_>, open: &mut OpenFile) -> Result<()> {
    let (direct, write_through) = match keys.take("cache") {
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

fn aio(keys: &mut Keys<'_>) -> Result<Aio> {
    match keys.take("aio") {
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

fn check_id(id: &str, key: &str) -> Result<()> {
    let is_rest = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if id.starts_with(|c: char| c.is_ascii_alphabetic()) && id.chars().all(is_rest) {
        return Ok(());
    }
    let message = format!("Parameter '{key}' expects an identifier");
    Err(Error::new(ErrorKind::InvalidId, message))
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
