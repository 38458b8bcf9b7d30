//! imago's access to an image.
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;

use imago::FormatAccess;
use imago::qcow2::Qcow2;
use imago::raw::Raw;

use super::autoclear;
use super::order::TableOrder;
use super::scope::{ImageNodes, Role, Scoped};
use super::storage::NodeStorage;
use crate::block::errand;
use crate::block::node::Node;
use crate::{Error, ErrorKind, Result};

/// Lets imago open the image, whose header has been checked.
pub(super) fn open_image(
    nodes: &ImageNodes,
    order: &Arc<TableOrder>,
    read_only: bool,
) -> Result<FormatAccess<NodeStorage>> {
    let opened = errand::run(|new| {
        let (own, order) = (nodes.clone(), Arc::clone(order));
        let work = async move { open_access(&own, &order, read_only).await };
        Scoped::new(nodes.open(new), work)
    })?;
    opened.map_err(|error: io::Error| Error::new(ErrorKind::InvalidArgument, error.to_string()))
}

/// The same as a future, in the scope of the nodes.
pub(super) async fn open_access(
    nodes: &ImageNodes,
    order: &Arc<TableOrder>,
    read_only: bool,
) -> io::Result<FormatAccess<NodeStorage>> {
    let metadata = NodeStorage::new(&nodes.file, Role::File).with_order(order);
    let storage_of =
        |node: &Option<Arc<Node>>, role| node.as_ref().map(|node| NodeStorage::new(node, role));
    let keeps_bitmaps = !read_only && autoclear::is_set(&nodes.file).await?;
    let mut image = Qcow2::<NodeStorage>::open_image(metadata, !read_only).await?;
    if keeps_bitmaps {
        autoclear::set(&nodes.file).await?;
    }
    image.set_data_file(storage_of(&nodes.data, Role::Data));
    let backing = match storage_of(&nodes.backing, Role::Backing) {
        Some(storage) => Some(FormatAccess::new(Raw::open_image(storage, false).await?)),
        None => None,
    };
    image.set_backing(backing);
    Ok(FormatAccess::new(image))
}
