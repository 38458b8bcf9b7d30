//! Copies from the backing file into the image: the request [`Op::Populate`](crate::block::Op).
//!
//! The caller has the range alone, so no write comes between reading and writing.
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;

use imago::FormatAccess;

use super::image::write_zeroes;
use super::mapping::status;
use super::storage::NodeStorage;
use crate::block::node::Node;

/// How much is in memory at once.
const COPIED_MAX: u64 = 512 << 10;

/// Gives the image what it takes from its backing file. Zeroes become zeroes without data, as far as the image can.
pub(super) async fn populate(
    access: &FormatAccess<NodeStorage>,
    backing: &Arc<Node>,
    mut offset: u64,
    length: u64,
) -> io::Result<()> {
    let end = offset.saturating_add(length);
    let mut bytes = Vec::new();
    while offset < end {
        let piece = status(access, Some(backing), offset, end - offset).await?;
        let mut count = piece.length.min(end - offset);
        if piece.depth > 1 {
            count = count.min(COPIED_MAX);
            bytes.resize(usize::try_from(count).unwrap_or(0), 0);
            if !piece.is_zero {
                access.read(&mut bytes[..], offset).await?;
            }
            match piece.is_zero || bytes.iter().all(|byte| *byte == 0) {
                true => write_zeroes(access, offset, count).await?,
                false => access.write(&bytes[..], offset).await?,
            }
        }
        offset += count;
    }
    Ok(())
}
