//! The overlay of `blockdev-snapshot-sync`: an image that is made or is there, opened as the disk is.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::block::common::{CommonOptions, check_name, duplicate_node};
use crate::block::create::{make_file, write_image};
use crate::block::driver::Driver;
use crate::block::drivers;
use crate::block::drivers::qcow2::BackingName;
use crate::block::node::Node;
use crate::object::{Options, Value};
use crate::{Error, ErrorKind, Result};

/// What the overlay is to be.
#[derive(Debug)]
pub(super) struct OverlayRecipe {
    file: String,
    name: Option<String>,
    format: String,
    /// There is an image already, which stays as it is.
    is_there: bool,
}

/// An open overlay. A file that was made for it goes with it, unless it is kept.
#[derive(Debug)]
pub struct NewOverlay {
    node: Arc<Node>,
    made: Option<MadeFile>,
}

/// A file that was not there before.
#[derive(Debug)]
struct MadeFile {
    path: PathBuf,
    is_kept: bool,
}

impl Drop for MadeFile {
    fn drop(&mut self) {
        if !self.is_kept {
            // Nothing else can be done about it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl OverlayRecipe {
    pub(super) fn take(arguments: &mut Options, needs_name: bool) -> Result<OverlayRecipe> {
        let recipe = OverlayRecipe {
            file: arguments.need_str("snapshot-file")?,
            name: arguments.take_str("snapshot-node-name")?,
            format: match arguments.take_str("format")? {
                Some(format) => format,
                None => Driver::Qcow2.name().to_owned(),
            },
            is_there: arguments.take_str("mode")?.as_deref() == Some("existing"),
        };
        match &recipe.name {
            None if needs_name => Err(invalid("New overlay node-name missing")),
            Some(name) if Node::find(name).is_ok() => {
                let message = "New overlay node-name already in use";
                Err(Error::new(ErrorKind::AlreadyExists, message))
            }
            _ => Ok(recipe),
        }
    }

    /// Makes the image, if it is not there, and opens it, without a backing file.
    pub(super) fn open(self, disk: &Arc<Node>) -> Result<NewOverlay> {
        if let Some(name) = &self.name {
            check_name(name)?;
        }
        let made = match self.is_there {
            true => None,
            false => self.make(disk)?,
        };
        let mut keys = self.options(disk);
        let own = keys.clone().into_entries();
        keys.take("node-name");
        let common = CommonOptions::take(&mut keys)?;
        let node = Node::child(self.name, common, |new| {
            let opened = drivers::open(&mut keys, new)?;
            keys.finish()?;
            Ok(opened)
        })?;
        node.set_options(own);
        node.enter(duplicate_node)?;
        Ok(NewOverlay { node, made })
    }

    /// Makes the image. The answer is its file, if that was not there before.
    fn make(&self, disk: &Arc<Node>) -> Result<Option<MadeFile>> {
        if self.format != Driver::Qcow2.name() {
            return Err(match drivers::names().contains(&&*self.format) {
                true => invalid(format!(
                    "Backing file not supported for file format '{}'",
                    self.format
                )),
                false => invalid(format!("Unknown file format '{}'", self.format)),
            });
        }
        let backing = BackingName {
            file: name_for(disk, Path::new(&self.file))?,
            format: disk.driver().name().to_owned(),
        };
        if is_same(Path::new(&self.file), disk) {
            let message =
                "Error: Trying to create an image with the same filename as the backing file";
            return Err(invalid(message));
        }
        let was_there = Path::new(&self.file).exists();
        let file = make_file(&self.file)?;
        let made = (!was_there).then(|| MadeFile {
            path: PathBuf::from(&self.file),
            is_kept: false,
        });
        write_image(&file, disk.length(), Some(&backing))?;
        Ok(made)
    }

    /// It is opened as the disk is.
    fn options(&self, disk: &Node) -> Options {
        let mut entries: Vec<(String, Value)> = vec![
            ("driver".to_owned(), self.format.as_str().into()),
            ("file.driver".to_owned(), Driver::File.name().into()),
            ("file.filename".to_owned(), self.file.as_str().into()),
        ];
        if let Some(name) = &self.name {
            entries.push(("node-name".to_owned(), name.as_str().into()));
        }
        if self.format == Driver::Qcow2.name() {
            entries.push(("backing".to_owned(), Value::Null));
        }
        let common = disk.common();
        if let Some(discard) = common.discard {
            let mode = if discard { "unmap" } else { "ignore" };
            entries.push(("discard".to_owned(), mode.into()));
        }
        let mut options = Options::from_dict(entries);
        common.pass_on(&mut options);
        options
    }
}

/// How an overlay in the file `overlay` finds the disk's file: by the name that the disk has, if that leads there from the overlay's
/// folder.
fn name_for(disk: &Node, overlay: &Path) -> Result<String> {
    let name = disk.filename().ok_or_else(|| {
        let message = format!(
            "node '{}' has no file name, which the overlay needs",
            disk.name()
        );
        invalid(message)
    })?;
    let path = Path::new(&name);
    let folder = overlay.parent().unwrap_or(Path::new(""));
    if path.is_absolute() || !path.exists() || id(&folder.join(path)) == id(path) {
        return Ok(name);
    }
    let absolute = std::path::absolute(path);
    let absolute = absolute
        .ok()
        .and_then(|whole| whole.into_os_string().into_string().ok());
    Ok(absolute.unwrap_or(name))
}

fn is_same(file: &Path, disk: &Node) -> bool {
    let name = disk.filename();
    let own = name.as_deref().map(Path::new).and_then(id);
    own.is_some() && own == id(file)
}

fn id(path: &Path) -> Option<(u64, u64)> {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

impl NewOverlay {
    pub(super) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// The snapshot is taken.
    pub fn keep(mut self) {
        if let Some(made) = &mut self.made {
            made.is_kept = true;
        }
    }
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
