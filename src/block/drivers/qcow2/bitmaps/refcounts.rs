//! Clusters are taken and freed in an image that nothing else changes meanwhile.
//!
//! New clusters are at the end of the file. Counts are read when they are needed, changed in memory, and written by [`Refcounts::save`]:
//! blocks first, then the table that has the places of new ones.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::super::header::{Qcow2Header, invalid, u64_at};
use super::super::metadata::{read, sync, write};
use crate::Result;
use crate::block::node::Node;

/// A block, and whether it has changed.
type RefcountBlock = (Vec<u8>, bool);

/// The counts of an image's clusters.
#[derive(Debug)]
pub(in super::super) struct Refcounts<'a> {
    file: &'a Arc<Node>,
    cluster_size: u64,
    /// Of a count.
    bits: u64,
    table_offset: u64,
    /// The places of blocks.
    table: Vec<u64>,
    is_table_changed: bool,
    /// Blocks that were read, and whether they have changed.
    blocks: BTreeMap<usize, RefcountBlock>,
    /// The first cluster behind the end of the file.
    end: u64,
}

impl<'a> Refcounts<'a> {
    pub(in super::super) fn read(
        header: &Qcow2Header,
        file: &'a Arc<Node>,
    ) -> Result<Refcounts<'a>> {
        file.refresh_length()?;
        let (table_offset, len) = header.refcount_table();
        let bytes = read(file, table_offset, len)?;
        header.check_refcount_blocks(&bytes, file.length())?;
        let places = (0..bytes.len() / 8).map(|index| u64_at(&bytes, index * 8) & !0x1ff);
        Ok(Refcounts {
            file,
            cluster_size: header.cluster_size(),
            bits: header.refcount_bits(),
            table_offset,
            table: places.collect(),
            is_table_changed: false,
            blocks: BTreeMap::new(),
            end: file.length().div_ceil(header.cluster_size()),
        })
    }

    /// Takes `count` clusters in a row. Returns where they are.
    pub(in super::super) fn take(&mut self, count: u64) -> Result<Range<u64>> {
        let first = self.end;
        self.end += count;
        for cluster in first..first + count {
            self.cover(cluster)?;
            if self.get(cluster)? != 0 {
                return Err(invalid("a cluster behind the end of the image is in use"));
            }
            self.put(cluster, 1)?;
        }
        Ok(first * self.cluster_size..(first + count) * self.cluster_size)
    }

    /// Takes clusters in a row for so many bytes. Returns where they are.
    pub(in super::super) fn take_bytes(&mut self, len: u64) -> Result<Range<u64>> {
        self.take(len.div_ceil(self.cluster_size))
    }

    /// Frees the clusters of a range, each of which is used once more than it will be.
    pub(in super::super) fn free(&mut self, range: Range<u64>) -> Result<()> {
        for cluster in range.start / self.cluster_size..range.end.div_ceil(self.cluster_size) {
            let count = self.get(cluster)?;
            if count == 0 {
                return Err(invalid("a cluster of a bitmap is not in use"));
            }
            self.put(cluster, count - 1)?;
        }
        Ok(())
    }

    /// Writes the counts, and makes them and all that was written before durable.
    pub(in super::super) fn save(&mut self) -> Result<()> {
        for (&index, (bytes, is_changed)) in &mut self.blocks {
            if std::mem::take(is_changed) {
                write(self.file, self.table[index], bytes.clone())?;
            }
        }
        if std::mem::take(&mut self.is_table_changed) {
            sync(self.file)?;
            let bytes = self.table.iter().flat_map(|place| place.to_be_bytes());
            write(self.file, self.table_offset, bytes.collect())?;
        }
        sync(self.file)
    }

    fn counts_per_block(&self) -> u64 {
        self.cluster_size * 8 / self.bits
    }

    /// Makes sure that there is a block for the count of a cluster.
    fn cover(&mut self, cluster: u64) -> Result<()> {
        let index = self.block_of(cluster)?;
        if self.table[index] != 0 {
            return Ok(());
        }
        let place = self.end;
        self.end += 1;
        self.table[index] = place * self.cluster_size;
        self.is_table_changed = true;
        let len = usize::try_from(self.cluster_size).unwrap_or(0);
        self.blocks.insert(index, (vec![0; len], true));
        // It counts itself, or another new block does.
        self.cover(place)?;
        self.put(place, 1)
    }

    fn block_of(&self, cluster: u64) -> Result<usize> {
        let index = usize::try_from(cluster / self.counts_per_block()).ok();
        index
            .filter(|&index| index < self.table.len())
            .ok_or_else(|| invalid("the refcount table of the image is too small"))
    }

    /// The block of a cluster and the number of its count there. `None` if there is no block.
    fn block(&mut self, cluster: u64) -> Result<Option<(&mut RefcountBlock, usize)>> {
        let index = self.block_of(cluster)?;
        let place = self.table[index];
        if place == 0 {
            return Ok(None);
        }
        let number = usize::try_from(cluster % self.counts_per_block()).unwrap_or(0);
        if !self.blocks.contains_key(&index) {
            let len = usize::try_from(self.cluster_size).unwrap_or(0);
            let bytes = read(self.file, place, len)?;
            self.blocks.insert(index, (bytes, false));
        }
        Ok(self.blocks.get_mut(&index).map(|block| (block, number)))
    }

    fn get(&mut self, cluster: u64) -> Result<u64> {
        let bits = self.bits;
        let block = self.block(cluster)?;
        Ok(block.map_or(0, |((bytes, _), number)| count_at(bytes, bits, number)))
    }

    fn put(&mut self, cluster: u64, count: u64) -> Result<()> {
        let bits = self.bits;
        let Some(((bytes, is_changed), number)) = self.block(cluster)? else {
            return Err(invalid("a cluster has no refcount"));
        };
        *is_changed = true;
        set_count(bytes, bits, number, count);
        Ok(())
    }
}

/// The bytes of a count of 8 bits and more.
fn bytes_of(bits: u64, number: usize) -> Range<usize> {
    let len = usize::try_from(bits / 8).unwrap_or(1);
    number * len..(number + 1) * len
}

/// A count in a block. Counts of less than a byte begin with the least bits.
fn count_at(block: &[u8], bits: u64, number: usize) -> u64 {
    if bits >= 8 {
        let bytes = block[bytes_of(bits, number)].iter();
        return bytes.fold(0, |count, &byte| count << 8 | u64::from(byte));
    }
    let at = number * usize::try_from(bits).unwrap_or(1);
    u64::from(block[at / 8]) >> (at % 8) & ((1 << bits) - 1)
}

fn set_count(block: &mut [u8], bits: u64, number: usize, count: u64) {
    if bits >= 8 {
        let range = bytes_of(bits, number);
        let len = range.len();
        block[range].copy_from_slice(&count.to_be_bytes()[8 - len..]);
        return;
    }
    let at = number * usize::try_from(bits).unwrap_or(1);
    let mask = ((1_u8 << bits) - 1) << (at % 8);
    let value = u8::try_from(count).unwrap_or(u8::MAX) << (at % 8);
    block[at / 8] = block[at / 8] & !mask | value & mask;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_every_width_are_where_they_should_be() {
        for order in 0..=6 {
            let bits = 1 << order;
            let most = if bits == 64 {
                u64::MAX
            } else {
                (1 << bits) - 1
            };
            let mut block = vec![0; 64];
            let all = usize::try_from(512 / bits).unwrap();
            for number in 0..all {
                set_count(&mut block, bits, number, most);
                assert_eq!(count_at(&block, bits, number), most, "{bits}");
                set_count(&mut block, bits, number, number as u64 & most);
            }
            let counts = (0..all).map(|number| count_at(&block, bits, number));
            assert!(
                counts.eq((0..all).map(|number| number as u64 & most)),
                "{bits}"
            );
        }
        let mut block = vec![0; 4];
        set_count(&mut block, 4, 1, 0xa);
        set_count(&mut block, 16, 1, 0x1234);
        assert_eq!(block, [0xa0, 0, 0x12, 0x34]);
    }
}
