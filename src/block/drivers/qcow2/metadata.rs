//! An image's metadata, read and written in its file as bytes. It blocks the thread.
//!
//! Used before the image is open, or while it is drained.
#![forbid(unsafe_code)]

use std::future::Future;
use std::io;
use std::sync::Arc;

use imago::{Storage, StorageExt};

use super::header::{FIXED_LEN, Qcow2Header};
use super::places::TablePlaces;
use super::scope::{ImageNodes, Role, Scoped};
use super::storage::NodeStorage;
use crate::block::errand;
use crate::block::node::Node;
use crate::{Error, Result};

/// Reads and checks the header of the image in `file`.
pub(super) fn read_header(file: &Arc<Node>, read_only: bool) -> Result<Qcow2Header> {
    file.refresh_length()?;
    let length = file.length();
    let mut header = Qcow2Header::parse(&read(file, 0, FIXED_LEN)?)?;
    header.check_features(read_only)?;
    header.check_tables(length)?;
    let cluster_len = usize::try_from(header.cluster_size()).unwrap_or(0);
    header.parse_names(&read(file, 0, cluster_len)?)?;
    Ok(header)
}

/// Reads and checks where the tables of an image are that is written.
pub(super) fn read_places(header: &Qcow2Header, file: &Arc<Node>) -> Result<TablePlaces> {
    let (offset, len) = header.refcount_table();
    let refcount_table = read(file, offset, len)?;
    header.check_refcount_blocks(&refcount_table, file.length())?;
    let l1 = header.l1_table();
    let l1_len = usize::try_from(l1.end - l1.start).unwrap_or(0);
    let l1 = read(file, l1.start, l1_len)?;
    Ok(TablePlaces::new(header, &l1, &refcount_table))
}

/// Reads bytes of a node. What is behind its end is zero.
pub(super) fn read(file: &Arc<Node>, offset: u64, len: usize) -> Result<Vec<u8>> {
    let bytes = run(file, move |storage| async move {
        let mut bytes = vec![0; len];
        storage.read(&mut bytes, offset).await.map(|()| bytes)
    });
    bytes?.map_err(|error| Error::os("Could not read the image header", error))
}

/// Writes to a node.
pub(super) fn write(file: &Arc<Node>, offset: u64, bytes: Vec<u8>) -> Result<()> {
    let written = run(file, move |storage| async move {
        storage.write(&bytes[..], offset).await
    });
    written?.map_err(|error| Error::os("Could not write the image's metadata", error))
}

/// Makes what was written durable.
pub(super) fn sync(file: &Arc<Node>) -> Result<()> {
    let synced = run(file, |storage| async move { storage.sync().await });
    synced?.map_err(|error| Error::os("Could not flush the image's metadata", error))
}

/// Does I/O to a node, and waits for it.
fn run<T, F: Future<Output = io::Result<T>> + 'static>(
    file: &Arc<Node>,
    io: impl FnOnce(NodeStorage) -> F,
) -> Result<io::Result<T>> {
    let nodes = ImageNodes {
        file: Arc::clone(file),
        data: None,
        backing: None,
    };
    let io = io(NodeStorage::new(file, Role::File));
    errand::run(|new| Scoped::new(nodes.open(new), io))
}
