//! Features and configuration space of the disk.
#![forbid(unsafe_code)]

use crate::block::Node;
use crate::virtio::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};

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

/// The longest discard or write-zeroes request, in sectors.
pub(super) const RANGE_MAX: u32 = 32768;

/// The unit of `capacity` and of sector numbers.
pub(super) const SECTOR: u64 = 512;

/// What the disk offers.
pub(super) fn features(node: &Node, queues: usize) -> u64 {
    let mut features = F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC;
    features |= F_SEG_MAX | F_BLK_SIZE | F_TOPOLOGY | F_FLUSH;
    if node.is_read_only() {
        features |= F_RO;
    } else {
        features |= F_DISCARD | F_WRITE_ZEROES;
    }
    if queues > 1 {
        features |= F_MQ;
    }
    features
}

/// The configuration space: `struct virtio_blk_config`.
pub(super) fn space(node: &Node, queues: u16) -> [u8; LEN] {
    let mut space = [0; LEN];
    let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
    let block_size = u32::try_from(node.block_size()).unwrap_or(u32::MAX);
    let block_sectors = block_size / 512;
    put(0, &(node.length() / SECTOR).to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &block_size.to_le_bytes());
    // Topology: physical_block_exp 0, alignment_offset 0, min_io_size 1 and opt_io_size 1 block.
    put(26, &1_u16.to_le_bytes());
    put(28, &1_u32.to_le_bytes());
    // writeback
    put(32, &[1]);
    put(34, &queues.to_le_bytes());
    // Discard, then write-zeroes: sectors, segments, and the alignment or whether unmapping is possible.
    put(36, &RANGE_MAX.to_le_bytes());
    put(40, &1_u32.to_le_bytes());
    put(44, &block_sectors.to_le_bytes());
    put(48, &RANGE_MAX.to_le_bytes());
    put(52, &1_u32.to_le_bytes());
    put(56, &[1]);
    space
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::options;
    use std::sync::Arc;

    fn open(text: &str) -> Arc<Node> {
        Node::open_blockdev(options::parse_dotted("driver", text).unwrap()).unwrap()
    }

    #[test]
    fn capacity_queues_and_writeback_stand_where_the_specification_says() {
        let node = open("null-co,node-name=config-a,size=3M");
        let space = space(&node, 4);
        assert_eq!(space[..8], (3 * 2048_u64).to_le_bytes());
        assert_eq!(space[20..24], 512_u32.to_le_bytes());
        assert_eq!((space[32], space[34], space[56]), (1, 4, 1));
        Node::remove("config-a").unwrap();
    }

    #[test]
    fn a_read_only_disk_offers_no_way_to_change_it() {
        let node = open("null-co,node-name=config-b,read-only=on");
        let offered = features(&node, 1);
        assert_eq!(offered & (F_RO | F_DISCARD | F_WRITE_ZEROES | F_MQ), F_RO);
        assert_eq!(offered & (1 << 30), 0, "bit 30 belongs to the transport");
        Node::remove("config-b").unwrap();
    }
}
