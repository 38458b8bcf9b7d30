//! The files that an image names: its backing file, and the backing file's own; its data file; its extents.
//!
//! The names come from the image, so they are trusted as little as the image. Only regular files are opened, for reading, with
//! the format that the image records. The format is never guessed: a guest could have written a header into a raw disk. A
//! chain that comes back to one of its files, or is too long, is refused. If the command line allows folders, only files below these are
//! opened.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::file::FileOptions;
use super::nbd::parse_file_name;
use super::qcow2::{Qcow2Options, open_in_chain};
use super::{raw, vdi, vhdx, vmdk};
use crate::block::common::{CommonOptions, duplicate_node};
use crate::block::driver::Driver;
use crate::block::node::Node;
use crate::object::Options;
use crate::{Error, ErrorKind, Result};

mod folders;

pub use folders::allow_image_folder;
use folders::{NamedFile, not_opened, real_path};

/// The most images over each other that name each other.
const DEPTH_MAX: usize = 200;

/// The files of the images above.
#[derive(Clone, Debug)]
pub(super) struct BackingChain(Vec<FileId>);

type FileId = (u64, u64);

impl BackingChain {
    /// The chain that begins with `file`.
    pub(super) fn new(file: &Arc<Node>) -> Result<BackingChain> {
        let id = own_path(file).map(|path| id_of_path(&path)).transpose()?;
        Ok(BackingChain(id.into_iter().collect()))
    }

    /// Opens the backing file that the image in `file` names, with the format that it names.
    pub(super) fn open(
        &self,
        name: &str,
        format: Option<&str>,
        file: &Arc<Node>,
    ) -> Result<Arc<Node>> {
        let Some(format) = format else {
            let message = format!(
                "the image does not record the format of its backing file '{name}': record it with 'qemu-img rebase -u', or \
                 give backing=NODE"
            );
            return Err(unsupported(message));
        };
        let found = find(name, file)?;
        let chain = self.with(&found, name)?;
        let below = open_found(found, true, file)?;
        let image = Node::child(None, reader(), |node| match format {
            "raw" | "file" => raw::over(&below, node),
            "qcow2" => open_in_chain(&below, Qcow2Options::plain(), node, &chain),
            "vdi" => vdi::over(&below, node),
            "vhdx" => vhdx::over(&below, node),
            "vmdk" => vmdk::over(&below, node),
            other => Err(unsupported(format!(
                "the format '{other}' of the backing file '{name}' is not supported"
            ))),
        })?;
        enter(image, &below)
    }

    /// The chain with another file at its end.
    fn with(&self, found: &NamedFile, name: &str) -> Result<BackingChain> {
        let id = id(&found.metadata()?);
        if self.0.contains(&id) {
            let message = format!("the backing file '{name}' is an image above it");
            return Err(invalid(message));
        }
        if self.0.len() >= DEPTH_MAX {
            let message = format!("more than {DEPTH_MAX} backing files");
            return Err(invalid(message));
        }
        let mut longer = self.clone();
        longer.0.push(id);
        Ok(longer)
    }
}

/// Gives the node of an image over `below` its options and its name.
fn enter(image: Arc<Node>, below: &Node) -> Result<Arc<Node>> {
    let inner = below.options().into_iter();
    let mut options = vec![("driver".to_owned(), image.driver().name().into())];
    options.extend(inner.map(|(key, value)| (format!("file.{key}"), value)));
    image.set_options(options);
    image.enter(duplicate_node)?;
    Ok(image)
}

/// Opens a file that the image in `file` names as it is.
pub(super) fn open_file(name: &str, file: &Arc<Node>, read_only: bool) -> Result<Arc<Node>> {
    let found = find(name, file)?;
    let own = own_path(file).map(|own| id_of_path(&own));
    if Some(id(&found.metadata()?)) == own.transpose()? {
        return Err(invalid(format!(
            "the data file '{name}' is the image itself"
        )));
    }
    open_found(found, read_only, file)
}

/// Opens a part of the image in `file`, for reading: a file in the image's folder or below it.
pub(super) fn open_part(name: &str, file: &Arc<Node>) -> Result<Arc<Node>> {
    let is_below = |part| matches!(part, Component::Normal(_));
    let outside = || {
        invalid(format!(
            "the extent '{name}' is outside of the image's folder"
        ))
    };
    if !Path::new(name).components().all(is_below) {
        return Err(outside());
    }
    let image = file.filename();
    let folder = image.as_deref().map(Path::new).and_then(Path::parent);
    let folder =
        folder.ok_or_else(|| unsupported(format!("the image has no folder for '{name}'")))?;
    // A link may lead elsewhere.
    let path = real_path(&folder.join(name))?;
    match path.starts_with(real_path(folder)?) {
        true => open_found(folders::find_real(path, name)?, true, file),
        false => Err(outside()),
    }
}

/// Finds a file that the image in `file` names, in an allowed folder.
fn find(name: &str, file: &Arc<Node>) -> Result<NamedFile> {
    folders::find(named_path(name, file)?, name)
}

/// The path of a file that the image in `file` names: relative to the image.
fn named_path(name: &str, file: &Arc<Node>) -> Result<PathBuf> {
    let is_protocol = |prefix: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        !prefix.is_empty() && prefix.chars().all(plain)
    };
    let path = match name.split_once(':') {
        Some(("file", path)) => path,
        Some((prefix, _)) if is_protocol(prefix) => {
            let message = format!(
                "the image names '{name}', and only files are opened: give the node as an option"
            );
            return Err(unsupported(message));
        }
        _ => name,
    };
    match own_path(file).as_deref().and_then(Path::parent) {
        Some(folder) => Ok(folder.join(path)),
        None if Path::new(path).is_absolute() => Ok(path.into()),
        None => Err(unsupported(format!("the image has no folder for '{name}'"))),
    }
}

/// Opens a file, past the page cache if the image in `image` is opened so.
fn open_found(named: NamedFile, read_only: bool, image: &Arc<Node>) -> Result<Arc<Node>> {
    let text = named.path.to_str();
    let text = text.ok_or_else(|| invalid("a path that is no text"))?;
    if !named.metadata()?.is_file() {
        return Err(invalid(format!("'{text}' is not a regular file")));
    }
    if !Path::new("/proc/self/fd").exists() {
        return Err(unsupported(format!(
            "an image names '{text}', and such files are opened through /proc, which is not there"
        )));
    }
    let common = CommonOptions {
        read_only: Some(read_only),
        direct: Some(image.is_direct()),
        ..CommonOptions::default()
    };
    let options = FileOptions::take(&mut Options::from_dict(vec![]), &common, text.into())?;
    let options = options.for_found(named.found);
    let node = Node::child(None, common, |node| options.open(Driver::File, node))?;
    node.set_options(vec![
        ("driver".to_owned(), Driver::File.name().into()),
        ("filename".to_owned(), text.into()),
    ]);
    node.enter(duplicate_node)?;
    Ok(node)
}

/// The options of a node that is only read.
fn reader() -> CommonOptions {
    CommonOptions {
        read_only: Some(true),
        ..CommonOptions::default()
    }
}

/// Where the image is, if it is a file of this host, and not the export of an NBD server.
fn own_path(file: &Node) -> Option<PathBuf> {
    let name = file.filename()?;
    let is_path = matches!(parse_file_name(&name), Ok(None));
    is_path.then(|| name.into())
}

fn id_of_path(path: &Path) -> Result<FileId> {
    let metadata = fs::metadata(path).map_err(|error| not_opened(path, error))?;
    Ok(id(&metadata))
}

fn id(metadata: &fs::Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidArgument, message.into())
}

fn unsupported(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, message.into())
}
