//! What an image's tables say about a range: the answer to [`Op::BlockStatus`].
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;

use imago::{FormatAccess, ShallowMapping};

use super::scope::{Role, current};
use super::storage::NodeStorage;
use crate::block::node::Node;
use crate::block::request::{Op, SECTOR};
use crate::block::status::BlockStatus;

/// How many pieces of a table one answer joins.
const PIECES_MAX: usize = 256;

/// What the range is, or how it begins.
pub(super) async fn status(
    access: &FormatAccess<NodeStorage>,
    backing: Option<&Arc<Node>>,
    offset: u64,
    length: u64,
) -> io::Result<BlockStatus> {
    let mut status = piece(access, backing, offset, length).await?;
    for _ in 1..PIECES_MAX {
        let (next, left) = (offset + status.length, length - status.length);
        if left == 0 {
            break;
        }
        let more = piece(access, backing, next, left).await?;
        if !status.goes_on(more) {
            break;
        }
        status.length += more.length;
    }
    Ok(status)
}

/// The same for as much as the table says at once.
async fn piece(
    access: &FormatAccess<NodeStorage>,
    backing: Option<&Arc<Node>>,
    offset: u64,
    length: u64,
) -> io::Result<BlockStatus> {
    let (mapping, count) = access.get_shallow_mapping(offset, length).await?;
    if count == 0 {
        return Ok(BlockStatus::zeroes(length));
    }
    Ok(match (mapping, backing) {
        (ShallowMapping::Indirect { .. }, Some(backing)) => {
            status_of_backing(backing, offset, count).await?
        }
        (ShallowMapping::Zero { explicit: true, .. }, _) => BlockStatus::zeroes(count),
        (ShallowMapping::Zero { .. }, _) => BlockStatus {
            depth: 0,
            ..BlockStatus::zeroes(count)
        },
        _ => BlockStatus::data(count),
    })
}

/// What the backing file says. Behind its end it counts as zeroes that it has.
async fn status_of_backing(
    backing: &Arc<Node>,
    offset: u64,
    length: u64,
) -> io::Result<BlockStatus> {
    let left = backing.length().saturating_sub(offset);
    if left == 0 {
        return Ok(BlockStatus::zeroes(length).one_deeper());
    }
    let below = current(Role::Backing).ok_or(io::ErrorKind::NotConnected)?;
    let mut request = below.request(Op::BlockStatus, offset);
    request.set_length(length.min(left));
    let finished = below.submit(request).await;
    let status = finished.request.status();
    below.recycle(finished.request);
    match finished.result {
        // The image has sectors; its backing file may be one of bytes.
        0 => Ok(status.in_units(SECTOR).one_deeper()),
        result => Err(io::Error::from_raw_os_error(-result)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::IoBuffer;
    use crate::block::drivers::qcow2::tests::{Folder, open};
    use crate::block::test_rig::Rig;

    /// The parts of the disk: where they begin, and what they are.
    fn map(node: &Arc<Node>) -> Vec<(u64, BlockStatus)> {
        let rig = Rig::reading(node);
        let backend = rig.backend();
        rig.run(async move {
            let (mut map, mut at) = (Vec::new(), 0);
            while at < backend.node().length() {
                let left = backend.node().length() - at;
                let status = backend.block_status(at, left).await.unwrap();
                map.push((at, status));
                at += status.length;
            }
            map
        })
    }

    #[test]
    fn each_range_is_of_the_image_that_decides_what_it_is() {
        let folder = Folder::new();
        folder.put("base.raw", &[7; 8192]);
        let middle = folder.overlay("middle.qcow2", "base.raw", "raw");
        let top = folder.overlay("top.qcow2", "middle.qcow2", "qcow2");
        let rig = Rig::over(&open(&middle, "").unwrap());
        let backend = rig.backend();
        rig.run(async move {
            let data = IoBuffer::copy_of(&[1; 8192]);
            backend.write(64 << 10, data, true).await.0.unwrap();
            backend.write_zeroes(4096, 4096, true, true).await.unwrap();
        });
        drop(rig);
        let node = open(&top, "").unwrap();
        let (data, zeroes) = (BlockStatus::data, BlockStatus::zeroes);
        let deep = |depth, status| BlockStatus { depth, ..status };
        let before = [
            (0, deep(3, data(4096))),
            (4096, deep(2, zeroes(4096))),
            (8192, deep(3, zeroes(56 << 10))),
            (64 << 10, deep(2, data(8192))),
            (72 << 10, deep(3, zeroes((1 << 20) - (72 << 10)))),
        ];
        assert_eq!(map(&node), before);
        let above = Rig::over(&node);
        let writer = above.backend();
        above.run(async move {
            let bytes = IoBuffer::copy_of(&[2; 4096]);
            writer.write(4096, bytes, true).await.0.unwrap();
        });
        assert_eq!(map(&node)[1], (4096, data(4096)));
        drop((above, node));
        let alone = open(&middle, ",backing=").unwrap();
        let expected = [
            (0, deep(0, zeroes(4096))),
            (4096, zeroes(4096)),
            (8192, deep(0, zeroes(56 << 10))),
            (64 << 10, data(8192)),
        ];
        assert_eq!(map(&alone)[..4], expected);
    }
    #[test]
    fn a_backing_file_that_ends_within_a_sector_has_it_whole() {
        let folder = Folder::new();
        folder.put("base.raw", &[7; 700]);
        let top = folder.overlay("top.qcow2", "base.raw", "raw");
        let node = open(&top, "").unwrap();
        let base = node.child_of("backing").unwrap();
        assert_eq!(map(&base)[0], (0, BlockStatus::data(700)));
        assert_eq!(map(&node)[0], (0, BlockStatus::data(1024).one_deeper()));
    }
}
