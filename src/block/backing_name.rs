//! The name of its backing file in an image's header: `change-backing-file`.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::chain::{chain_of, check_root, position};
use super::change::GraphChange;
use super::driver::Driver;
use super::drivers::qcow2::{BackingName, rewrite_backing};
use super::node::Node;
use crate::{Error, ErrorKind, Result};

/// An image that is to name its backing file in another way, or not at all.
#[derive(Debug)]
pub struct BackingRename {
    image: Arc<Node>,
    name: Option<BackingName>,
}

impl BackingRename {
    /// The image `image` in the chain of `device` is to name its backing file `file`. It is opened anew by `change`, with the same
    /// backing file, so that it knows its name.
    ///
    /// # Errors
    /// There are no such nodes, or no backing file; the image cannot be written.
    pub fn new(
        change: &mut GraphChange,
        device: &str,
        image: &str,
        file: String,
    ) -> Result<BackingRename> {
        let top = Node::find(device)?;
        check_root(&top)?;
        let image = Node::find_by_node_name(image)?;
        let backing = image.backing().ok_or_else(|| {
            invalid("not allowing backing file change on an image without a backing file")
        })?;
        if position(&chain_of(&top), &image).is_none() {
            let message = format!("'{}' and image file are not in the same chain", top.name());
            return Err(invalid(message));
        }
        if image.is_read_only() || image.driver() != Driver::Qcow2 {
            let message = format!("Block node '{}' is read-only", image.name());
            return Err(invalid(message));
        }
        change.set_child(&image, "backing", Some(&backing))?;
        let format = backing.driver().name().to_owned();
        Ok(BackingRename {
            image,
            name: (!file.is_empty()).then_some(BackingName { file, format }),
        })
    }

    /// Writes the name. The image is drained, and opened anew afterwards.
    ///
    /// # Errors
    /// The name is too long, or the host's.
    pub fn write(self) -> Result<()> {
        rewrite_backing(&self.image, self.name.as_ref()).map_err(|error| {
            let file = self.name.map(|name| name.file).unwrap_or_default();
            let message = format!("Could not change backing file to '{file}': {error}");
            Error::new(error.kind(), message)
        })
    }
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
