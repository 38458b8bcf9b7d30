//! Gives an image that is open another backing file, by name.
//!
//! The caller has drained the image, and opens it anew afterwards: the open image knows the old name.
#![forbid(unsafe_code)]

use std::sync::Arc;

use imago::{Storage, StorageExt};

use super::header::rewrite::{BackingName, with_backing};
use super::header::{FIXED_LEN, Qcow2Header, invalid};
use super::read;
use super::scope::{ImageNodes, Role, Scoped};
use super::storage::NodeStorage;
use crate::block::errand;
use crate::block::node::Node;
use crate::{Error, Result};

/// Writes the name of another backing file, or none, into the header of the image `node`, durably. It blocks the thread.
///
/// # Errors
/// The node is no qcow2 image; the names do not fit; the host's.
pub(in crate::block) fn rewrite_backing(
    node: &Arc<Node>,
    backing: Option<&BackingName>,
) -> Result<()> {
    let file = node.child_of("file");
    let file = file.ok_or_else(|| invalid("Image is not in qcow2 format"))?;
    let header = Qcow2Header::parse(&read(&file, 0, FIXED_LEN)?)?;
    let cluster = read(
        &file,
        0,
        usize::try_from(header.cluster_size()).unwrap_or(0),
    )?;
    let mut bytes = with_backing(&cluster, backing)?;
    let mut pairs = cluster.iter().zip(&bytes);
    let Some(last) = pairs.rposition(|(old, new)| old != new) else {
        return Ok(());
    };
    bytes.truncate((last + 1).next_multiple_of(512));
    write(&file, 0, bytes)?;
    sync(&file)
}

/// Writes to a node.
pub(super) fn write(file: &Arc<Node>, offset: u64, bytes: Vec<u8>) -> Result<()> {
    let nodes = ImageNodes {
        file: Arc::clone(file),
        data: None,
        backing: None,
    };
    let storage = NodeStorage::new(file, Role::File);
    let written = errand::run(|new| {
        let work = async move { storage.write(&bytes[..], offset).await };
        Scoped::new(nodes.open(new), work)
    })?;
    written.map_err(|error| Error::os("Could not write the image's metadata", error))
}

/// Makes what was written durable.
pub(super) fn sync(file: &Arc<Node>) -> Result<()> {
    let nodes = ImageNodes {
        file: Arc::clone(file),
        data: None,
        backing: None,
    };
    let storage = NodeStorage::new(file, Role::File);
    let synced = errand::run(|new| {
        let work = async move { storage.sync().await };
        Scoped::new(nodes.open(new), work)
    })?;
    synced.map_err(|error| Error::os("Could not flush the image's metadata", error))
}
