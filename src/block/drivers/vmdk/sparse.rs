//! A VMDK extent with tables: a directory, whose entries are the places of tables, whose entries are the places of grains.
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;

use crate::Result;
use crate::block::drivers::mapped::{
    Content, DiskExtent, HeaderFields, ImageTables, PackedGrain, invalid, read_node, unsupported,
};
use crate::block::node::Node;
use crate::block::request::SECTOR;

pub(super) const SIGNATURE: &[u8] = b"KDMV";
pub(super) const HEADER_LEN: usize = 512;

const HAS_ZERO_GRAINS: u32 = 1 << 2;
const IS_COMPRESSED: u32 = 1 << 16;
const HAS_MARKERS: u32 = 1 << 17;
const DEFLATE: u16 = 1;
/// The directory's place is in a footer.
const AT_END: u64 = u64::MAX;
/// A marker, a copy of the header, and the marker of the end.
const FOOTER_LEN: u64 = 3 * SECTOR;
const FOOTER_MARKER: u32 = 3;

const TABLE_ENTRIES_MAX: u32 = 512;
const GRAIN_SECTORS_MAX: u64 = 0x20_0000;
/// A compressed grain is unpacked as a whole.
const PACKED_GRAIN_MAX: u64 = 1 << 20;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct SparseExtent {
    /// The place of the directory.
    directory: u64,
    /// In bytes.
    grain: u64,
    grains_per_table: u64,
    has_zero_grains: bool,
    is_packed: bool,
}

impl SparseExtent {
    /// Reads and checks the header in `file`. Returns the extent and its length.
    pub(super) fn open(file: &Arc<Node>) -> Result<(SparseExtent, u64)> {
        let header = read_node(file, 0, HEADER_LEN)?;
        if !header.starts_with(SIGNATURE) {
            return Err(invalid("Image not in VMDK format"));
        }
        match HeaderFields(&header).u64(56) {
            AT_END => parse(HeaderFields(&footer(file)?), file.length()),
            _ => parse(HeaderFields(&header), file.length()),
        }
    }

    /// The size of a grain in bytes.
    pub(super) fn grain(&self) -> u64 {
        self.grain
    }

    /// Whether grains are compressed.
    pub(super) fn is_packed(&self) -> bool {
        self.is_packed
    }

    /// What is at byte `within` of the extent.
    pub(super) async fn find(
        &self,
        tables: &ImageTables<'_>,
        file: usize,
        within: u64,
    ) -> io::Result<DiskExtent> {
        let (index, skip) = (within / self.grain, within % self.grain);
        let rest = self.grain - skip;
        let (table, entry) = (index / self.grains_per_table, index % self.grains_per_table);
        let table = u64::from(tables.u32(file, self.directory + table * 4).await?) * SECTOR;
        if table == 0 {
            return Ok(DiskExtent::zeroes(rest));
        }
        let place = tables.u32(file, table + entry * 4).await?;
        if place == 0 || (place == 1 && self.has_zero_grains) {
            return Ok(DiskExtent::zeroes(rest));
        }
        let offset = u64::from(place) * SECTOR;
        if !self.is_packed {
            return Ok(DiskExtent::plain(rest, file, offset + skip));
        }
        let grain = PackedGrain {
            file,
            offset,
            unpacked: usize::try_from(self.grain).map_err(io::Error::other)?,
        };
        Ok(DiskExtent {
            length: rest,
            content: Content::Packed { grain, skip },
        })
    }
}

/// The copy of the header at the end of the file.
fn footer(file: &Arc<Node>) -> Result<Vec<u8>> {
    let start = file.length().checked_sub(FOOTER_LEN);
    let start = start.ok_or_else(|| invalid("Invalid footer"))?;
    let mut footer = read_node(file, start, 3 * HEADER_LEN)?;
    let marker = HeaderFields(&footer);
    let end = HeaderFields(&footer[2 * HEADER_LEN..]);
    let is_footer = marker.u32(8) == 0 && marker.u32(12) == FOOTER_MARKER;
    let is_end = end.u64(0) == 0 && end.u32(8) == 0 && end.u32(12) == 0;
    if !is_footer || !is_end || !footer[HEADER_LEN..].starts_with(SIGNATURE) {
        return Err(invalid("Invalid footer"));
    }
    Ok(footer.drain(HEADER_LEN..2 * HEADER_LEN).collect())
}

/// The extent and its length, from the header of a file of `file_len` bytes.
fn parse(header: HeaderFields<'_>, file_len: u64) -> Result<(SparseExtent, u64)> {
    let version = header.u32(4);
    if !(1..=3).contains(&version) {
        return Err(unsupported(format!("Unsupported VMDK version {version}")));
    }
    let flags = header.u32(8);
    let is_packed = flags & IS_COMPRESSED != 0;
    check_compression(flags, header.u16(77))?;
    let (capacity, grain) = (header.u64(12), header.u64(20));
    let grains_per_table = header.u32(44);
    if !(1..=TABLE_ENTRIES_MAX).contains(&grains_per_table) {
        return Err(invalid("L2 table size too big"));
    }
    if !grain.is_power_of_two() || grain > GRAIN_SECTORS_MAX {
        return Err(invalid("Invalid granularity, image may be corrupt"));
    }
    let grain = grain * SECTOR;
    if is_packed && grain > PACKED_GRAIN_MAX {
        return Err(unsupported(format!(
            "Unsupported compressed grains of {grain} bytes"
        )));
    }
    check_end(header.u64(64), file_len)?;
    let length = capacity
        .checked_mul(SECTOR)
        .ok_or_else(|| invalid("L1 size too big"))?;
    let extent = SparseExtent {
        directory: header.u64(56).saturating_mul(SECTOR),
        grain,
        grains_per_table: grains_per_table.into(),
        has_zero_grains: flags & HAS_ZERO_GRAINS != 0,
        is_packed,
    };
    extent.check_directory(length, file_len)?;
    Ok((extent, length))
}

fn check_compression(flags: u32, algorithm: u16) -> Result<()> {
    if flags & IS_COMPRESSED == 0 {
        return Ok(());
    }
    if algorithm != DEFLATE || flags & HAS_MARKERS == 0 {
        let message = format!("Unsupported VMDK compression (algorithm {algorithm})");
        return Err(unsupported(message));
    }
    Ok(())
}

/// Checks that the file has its metadata, which ends at sector `grains`.
fn check_end(grains: u64, file_len: u64) -> Result<()> {
    let expected = grains.saturating_mul(SECTOR);
    if file_len < expected {
        let message = format!("File truncated, expecting at least {expected} bytes");
        return Err(invalid(message));
    }
    Ok(())
}

impl SparseExtent {
    /// Checks that the directory is in the file, and has an entry for each table of an extent of `length` bytes.
    fn check_directory(&self, length: u64, file_len: u64) -> Result<()> {
        let tables = length.div_ceil(self.grain * self.grains_per_table);
        let end = self.directory.checked_add(tables * 4);
        if self.directory == 0 || end.is_none_or(|end| end > file_len) {
            return Err(invalid("the VMDK grain directory is not within the file"));
        }
        Ok(())
    }
}
