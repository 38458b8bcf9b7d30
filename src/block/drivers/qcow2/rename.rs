//! Gives an image that is open another backing file, by name.
//!
//! The caller has drained the image, and opens it anew afterwards: the open image knows the old name.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::header::rewrite::{BackingName, with_backing};
use super::header::{FIXED_LEN, Qcow2Header, invalid};
use super::metadata::{read, sync, write};
use crate::Result;
use crate::block::node::Node;

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
