//! The bit in the header that says that the bitmaps are as the image is.
//!
//! imago knows nothing of bitmaps, so it clears the bit whenever it opens an image for writing. The bitmaps are marked as in use then, which
//! is right, too; so the bit is set again.
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;

use imago::{Storage, StorageExt};

use super::header::{BITMAPS, u32_at, u64_at};
use super::scope::Role;
use super::storage::NodeStorage;
use crate::block::node::Node;

/// Where it is in the header.
const OFFSET: usize = 88;

/// Whether the image in `file` has the bit. In the scope of its nodes.
pub(super) async fn is_set(file: &Arc<Node>) -> io::Result<bool> {
    let start = read(file).await?;
    Ok(u32_at(&start, 4) >= 3 && u64_at(&start, OFFSET) & BITMAPS != 0)
}

/// Sets the bit, durably.
pub(super) async fn set(file: &Arc<Node>) -> io::Result<()> {
    let bits = u64_at(&read(file).await?, OFFSET) | BITMAPS;
    let storage = NodeStorage::new(file, Role::File);
    storage
        .write(&bits.to_be_bytes()[..], OFFSET as u64)
        .await?;
    storage.sync().await
}

async fn read(file: &Arc<Node>) -> io::Result<[u8; OFFSET + 8]> {
    let mut start = [0; OFFSET + 8];
    let storage = NodeStorage::new(file, Role::File);
    storage.read(&mut start[..], 0).await?;
    Ok(start)
}
