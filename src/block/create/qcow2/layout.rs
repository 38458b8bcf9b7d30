//! Where everything is in a new image, and what its tables say.
//!
//! The clusters in their order: the header, the refcount table, the refcount blocks, the L1 table and, with preallocation, the L2
//! tables and the data. Each table is computed a cluster at a time, so the memory does not depend on the image's size.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::header::{NewTables, Qcow2Recipe, too_large};
use crate::Result;

/// The cluster is used once, so it may be written in place.
const COPIED: u64 = 1 << 63;
/// QEMU opens no image with a larger L1 table or refcount table.
const L1_MAX: u64 = 32 << 20;
const REFCOUNT_TABLE_MAX: u64 = 8 << 20;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Qcow2Layout {
    cluster_bits: u32,
    refcount_order: u32,
    has_wide_entries: bool,
    /// Data have no place in the file, because they are in the data file.
    is_external: bool,
    /// The clusters are taken, and their data come from the backing file until they are written.
    is_backed: bool,
    l1_entries: u64,
    guest_clusters: u64,
    refcount_table: Range<u64>,
    refcount_blocks: Range<u64>,
    l1: Range<u64>,
    l2: Range<u64>,
    data: Range<u64>,
}

impl Qcow2Layout {
    /// Computes the places of all tables; with `allocates`, of all data as well.
    ///
    /// # Errors
    /// The tables would be larger than the format allows.
    pub(super) fn new(recipe: &Qcow2Recipe, allocates: bool) -> Result<Qcow2Layout> {
        let bits = recipe.cluster_bits;
        let clusters = |bytes: u64| bytes.div_ceil(1 << bits);
        let entry_bits = if recipe.extended_l2 { 4 } else { 3 };
        let guest_clusters = clusters(recipe.size);
        let l1_entries = guest_clusters.div_ceil(1 << (bits - entry_bits));
        if l1_entries * 8 > L1_MAX {
            return Err(too_large());
        }
        let l2_clusters = if allocates { l1_entries } else { 0 };
        let data_clusters = match allocates && recipe.data_file.is_none() {
            true => guest_clusters,
            false => 0,
        };
        let rest = 1 + clusters(l1_entries * 8) + l2_clusters + data_clusters;
        let (table, blocks) = refcounts(rest, bits, recipe.refcount_order);
        if table << bits > REFCOUNT_TABLE_MAX {
            return Err(too_large());
        }
        let mut end = 1;
        let mut take = |count: u64| {
            end += count;
            end - count..end
        };
        Ok(Qcow2Layout {
            cluster_bits: bits,
            refcount_order: recipe.refcount_order,
            has_wide_entries: recipe.extended_l2,
            is_external: recipe.data_file.is_some(),
            is_backed: recipe.backing_file.is_some(),
            l1_entries,
            guest_clusters,
            refcount_table: take(table),
            refcount_blocks: take(blocks),
            l1: take(clusters(l1_entries * 8)),
            l2: take(l2_clusters),
            data: take(data_clusters),
        })
    }

    pub(super) fn cluster_size(&self) -> usize {
        1 << self.cluster_bits
    }

    /// How many clusters there are before the data.
    pub(super) fn table_clusters(&self) -> u64 {
        self.data.start
    }

    pub(super) fn file_length(&self) -> u64 {
        self.data.end << self.cluster_bits
    }

    /// Where the data begin and end in the file.
    pub(super) fn data_area(&self) -> (u64, u64) {
        (self.offset(self.data.start), self.offset(self.data.end))
    }

    /// The header's bytes.
    pub(super) fn header(&self, recipe: &Qcow2Recipe) -> Vec<u8> {
        let count = |range: &Range<u64>| u32::try_from(range.end - range.start).unwrap_or(u32::MAX);
        recipe.header(&NewTables {
            l1_entries: u32::try_from(self.l1_entries).unwrap_or(u32::MAX),
            l1_offset: match self.l1_entries {
                0 => 0,
                _ => self.offset(self.l1.start),
            },
            refcount_table_offset: self.offset(self.refcount_table.start),
            refcount_table_clusters: count(&self.refcount_table),
        })
    }

    /// Fills the cluster `index`, which is zeroed, with its part of a table. The header's cluster stays zero.
    pub(super) fn fill(&self, index: u64, cluster: &mut [u8]) {
        if self.refcount_table.contains(&index) {
            let first = index - self.refcount_table.start;
            self.fill_with_offsets(first, &self.refcount_blocks, 0, cluster);
        } else if self.refcount_blocks.contains(&index) {
            self.fill_refcounts(index - self.refcount_blocks.start, cluster);
        } else if self.l1.contains(&index) {
            self.fill_with_offsets(index - self.l1.start, &self.l2, COPIED, cluster);
        } else if self.l2.contains(&index) {
            self.fill_l2(index - self.l2.start, cluster);
        }
    }

    /// A part of a table that refers to clusters, which lie one after the other.
    fn fill_with_offsets(&self, part: u64, clusters: &Range<u64>, flags: u64, bytes: &mut [u8]) {
        let first = clusters.start + part * (bytes.len() as u64 / 8);
        let entries = bytes.chunks_exact_mut(8);
        for (entry, cluster) in entries.zip(first..clusters.end) {
            entry.copy_from_slice(&(self.offset(cluster) | flags).to_be_bytes());
        }
    }

    /// All clusters of the image are used once.
    fn fill_refcounts(&self, block: u64, bytes: &mut [u8]) {
        let bits = 1_u64 << self.refcount_order;
        let per_block = bytes.len() as u64 * 8 / bits;
        let used = (self.data.end - block * per_block).min(per_block);
        for entry in 0..used {
            // Numbers of whole bytes are big-endian; smaller ones begin with the lowest bit of a byte.
            let bit = match bits < 8 {
                true => entry * bits,
                false => entry * bits + bits - 8,
            };
            if let Some(byte) = usize::try_from(bit / 8)
                .ok()
                .and_then(|at| bytes.get_mut(at))
            {
                *byte |= 1 << (bit % 8);
            }
        }
    }

    fn fill_l2(&self, table: u64, bytes: &mut [u8]) {
        let entry_len = if self.has_wide_entries { 16 } else { 8 };
        let first = table * (bytes.len() as u64 / entry_len);
        let entries = bytes.chunks_exact_mut(usize::try_from(entry_len).unwrap_or(8));
        for (entry, guest) in entries.zip(first..self.guest_clusters) {
            let cluster = match self.is_external {
                true => guest,
                false => self.data.start + guest,
            };
            entry[..8].copy_from_slice(&(self.offset(cluster) | COPIED).to_be_bytes());
            if self.has_wide_entries && !self.is_backed {
                // All parts of the cluster have data.
                entry[8..].copy_from_slice(&u64::from(u32::MAX).to_be_bytes());
            }
        }
    }

    fn offset(&self, cluster: u64) -> u64 {
        cluster << self.cluster_bits
    }
}

/// How many clusters the refcount table and the refcount blocks take for `rest` other clusters and themselves.
fn refcounts(rest: u64, cluster_bits: u32, refcount_order: u32) -> (u64, u64) {
    let per_block = 1_u64 << (cluster_bits + 3 - refcount_order);
    let per_table = 1_u64 << (cluster_bits - 3);
    let (mut table, mut blocks) = (1, 1);
    loop {
        let wanted_blocks = (rest + table + blocks).div_ceil(per_block);
        let wanted_table = wanted_blocks.div_ceil(per_table);
        if (wanted_table, wanted_blocks) == (table, blocks) {
            return (table, blocks);
        }
        (table, blocks) = (wanted_table.max(table), wanted_blocks.max(blocks));
    }
}
