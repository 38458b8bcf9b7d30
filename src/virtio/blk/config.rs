//! Features and configuration space of the disk.
#![forbid(unsafe_code)]

use super::BlockSizes;
use crate::block::Node;
use crate::virtio::{DeviceLimits, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};

const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_TOPOLOGY: u64 = 1 << 10;
const F_MQ: u64 = 1 << 12;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

/// The length of the configuration space.
const LEN: usize = 60;

/// The most data segments in one request: with header and status they fit into the smallest usual queue, of 128.
const SEG_MAX: u32 = 126;

/// The descriptors of a request that hold no data: header and status.
const FRAME: u32 = 2;

/// The longest discard or write-zeroes request, in sectors.
pub(super) const RANGE_MAX: u32 = 32768;

/// The unit of `capacity` and of sector numbers.
pub(super) const SECTOR: u64 = 512;

/// What the disk offers.
pub(super) fn features(read_only: bool, limits: DeviceLimits) -> u64 {
    let mut features = F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC;
    features |= F_SEG_MAX | F_BLK_SIZE | F_TOPOLOGY | F_FLUSH;
    if read_only {
        features |= F_RO;
    } else {
        features |= F_DISCARD | F_WRITE_ZEROES;
    }
    if limits.queues > 1 {
        features |= F_MQ;
    }
    features
}

/// The configuration space: `struct virtio_blk_config`.
pub(super) fn space(node: &Node, limits: DeviceLimits, sizes: BlockSizes) -> [u8; LEN] {
    let mut space = [0; LEN];
    let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &(node.length() / SECTOR).to_le_bytes());
    put(12, &seg_max(limits).to_le_bytes());
    put(20, &sizes.logical.to_le_bytes());
    // Topology: the size of physical blocks as a power of logical ones; no offset; the least and the best request.
    let exponent = (sizes.physical / sizes.logical).ilog2();
    put(24, &exponent.to_le_bytes()[..1]);
    let least = u16::try_from(sizes.min_io / sizes.logical).unwrap_or(u16::MAX);
    put(26, &least.to_le_bytes());
    put(28, &(sizes.opt_io / sizes.logical).to_le_bytes());
    // writeback
    put(32, &[1]);
    put(34, &limits.queues.to_le_bytes());
    // Discard, then write-zeroes: sectors, segments, and the alignment or whether unmapping is possible.
    put(36, &RANGE_MAX.to_le_bytes());
    put(40, &1_u32.to_le_bytes());
    put(44, &(sizes.granularity() / 512).to_le_bytes());
    put(48, &RANGE_MAX.to_le_bytes());
    put(52, &1_u32.to_le_bytes());
    put(56, &[1]);
    space
}

/// A request is never longer than the queue, so a small queue has room for few segments, but for one at least.
fn seg_max(limits: DeviceLimits) -> u32 {
    let room = u32::from(limits.queue_size).saturating_sub(FRAME);
    room.clamp(1, SEG_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::options;
    use std::sync::Arc;

    fn limits(queues: u16, queue_size: u16) -> DeviceLimits {
        DeviceLimits { queues, queue_size }
    }

    fn open(text: &str) -> Arc<Node> {
        Node::open_blockdev(options::parse_dotted("driver", text).unwrap()).unwrap()
    }

    #[test]
    fn capacity_queues_and_writeback_stand_where_the_specification_says() {
        let node = open("null-co,node-name=config-a,size=3M");
        let space = space(&node, limits(4, 256), BlockSizes::of_blocks(4096));
        assert_eq!(space[..8], (3 * 2048_u64).to_le_bytes());
        assert_eq!(space[20..24], 4096_u32.to_le_bytes());
        assert_eq!((space[32], space[34], space[56]), (1, 4, 1));
        Node::remove("config-a").unwrap();
    }

    #[test]
    fn a_read_only_disk_offers_no_way_to_change_it() {
        let offered = features(true, limits(1, 256));
        assert_eq!(offered & (F_RO | F_DISCARD | F_WRITE_ZEROES | F_MQ), F_RO);
        assert_eq!(offered & (1 << 30), 0, "bit 30 belongs to the transport");
    }

    #[test]
    fn a_request_of_the_most_segments_fits_into_the_largest_queue() {
        let sizes = [1024, 256, 128, 64, 4, 2].map(|size| seg_max(limits(1, size)));
        assert_eq!(sizes, [126, 126, 126, 62, 2, 1]);
    }
}
