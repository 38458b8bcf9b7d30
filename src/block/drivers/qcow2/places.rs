//! Where the tables of an image are.
//!
//! A cluster that was an L2 table or a refcount block once is taken for one for ever. That costs a flush at times and harms nothing.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::ops::Range;

use super::header::Qcow2Header;

/// What a write changes, if it is no data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TableKind {
    Header,
    /// The header, in which the place of the L1 table changes.
    HeaderWithL1,
    L1,
    L2,
    RefcountTable,
    RefcountBlock,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct TablePlaces {
    cluster_size: u64,
    l1: Range<u64>,
    refcount_table: Range<u64>,
    l2: HashSet<u64>,
    refcount_blocks: HashSet<u64>,
}

/// The bits of entries that are an offset.
const L2_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const BLOCK_OFFSET: u64 = !0x1ff;

impl TablePlaces {
    /// The places that the header and the bytes of its two tables say.
    pub(super) fn new(header: &Qcow2Header, l1: &[u8], refcount_table: &[u8]) -> TablePlaces {
        let (offset, len) = header.refcount_table();
        let mut places = TablePlaces {
            cluster_size: header.cluster_size(),
            l1: header.l1_table(),
            refcount_table: offset..offset + len as u64,
            l2: HashSet::new(),
            refcount_blocks: HashSet::new(),
        };
        places.l2.extend(offsets(l1, L2_OFFSET));
        places
            .refcount_blocks
            .extend(offsets(refcount_table, BLOCK_OFFSET));
        places
    }

    /// The table that a write to `offset` changes. For a write to the header, `start` has its first bytes.
    pub(super) fn table_at(&self, offset: u64, start: &[u8]) -> Option<TableKind> {
        if offset < self.cluster_size {
            return Some(match l1_place(start) {
                Some(place) if place != self.l1.start => TableKind::HeaderWithL1,
                _ => TableKind::Header,
            });
        }
        let cluster = offset / self.cluster_size * self.cluster_size;
        if self.l1.contains(&offset) {
            Some(TableKind::L1)
        } else if self.refcount_table.contains(&offset) {
            Some(TableKind::RefcountTable)
        } else if self.refcount_blocks.contains(&cluster) {
            Some(TableKind::RefcountBlock)
        } else if self.l2.contains(&cluster) {
            Some(TableKind::L2)
        } else {
            None
        }
    }

    /// Takes in what was written to a table at `offset`. Returns where the refcount table is if it has moved. Its new entries are
    /// unknown then; those of a new L1 table are the old ones.
    pub(super) fn learn(
        &mut self,
        table: TableKind,
        offset: u64,
        bytes: &[u8],
    ) -> Option<Range<u64>> {
        let before = self.refcount_table.clone();
        match table {
            TableKind::L1 => self.l2.extend(offsets(bytes, L2_OFFSET)),
            TableKind::RefcountTable => self.refcount_blocks.extend(offsets(bytes, BLOCK_OFFSET)),
            TableKind::Header | TableKind::HeaderWithL1 if offset == 0 => self.move_tables(bytes),
            _ => {}
        }
        (self.refcount_table != before).then(|| self.refcount_table.clone())
    }

    fn move_tables(&mut self, header: &[u8]) {
        let unit = self.cluster_size;
        if let (Some(place), Some(entries)) = (l1_place(header), number(header, 36, 4)) {
            let len = (entries * 8).next_multiple_of(unit);
            self.l1 = place..place.saturating_add(len);
        }
        if let (Some(place), Some(clusters)) = (number(header, 48, 8), number(header, 56, 4)) {
            let len = clusters.saturating_mul(unit);
            self.refcount_table = place..place.saturating_add(len);
        }
    }
}

/// The offsets in the entries of a table.
fn offsets(table: &[u8], mask: u64) -> impl Iterator<Item = u64> {
    let entries = table.chunks_exact(8);
    let offsets = entries.filter_map(move |entry| Some(number(entry, 0, 8)? & mask));
    offsets.filter(|&offset| offset != 0)
}

/// Where the header says that the L1 table is.
fn l1_place(header: &[u8]) -> Option<u64> {
    number(header, 40, 8)
}

/// A big-endian number of so many bytes.
fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + len)?;
    Some(
        bytes
            .iter()
            .fold(0, |number, &byte| number << 8 | u64::from(byte)),
    )
}
