//! Persistent dirty bitmaps: how a qcow2 image has them.
//!
//! A header extension says where the directory is. An entry of the directory has a bitmap's name and says where its table is. The table
//! has the places of clusters with bits. An autoclear bit says that whoever changed the image since knew of the bitmaps.
//!
//! * An image that is opened for writing has its bitmaps marked as in use, in place, before anything else is done with it.
//! * When it is closed, they are written anew: clusters, tables and the directory into new clusters, then the header, which makes them
//!   count, and then what was there before is freed ([`store`]). A crash before the header is written leaves bitmaps that are in use.
//! * A bitmap that is in use when an image is opened lacks something. It is shown, and can be removed.
#![forbid(unsafe_code)]

use super::header::{get_u32, invalid, u32_at, u64_at};
use crate::Result;

pub(super) mod load;
pub(super) mod refcounts;
pub(super) mod store;

/// The type of the header extension.
pub(super) const EXTENSION: u32 = 0x2385_2875;

/// QEMU's limits.
const BITMAPS_MAX: u32 = 65535;
const DIRECTORY_LEN_MAX: u64 = BITMAPS_MAX as u64 * 1024;
const TABLE_ENTRIES_MAX: u32 = 0x0800_0000;
const NAME_LEN_MAX: usize = 1023;

/// Flags of an entry.
pub(super) const IN_USE: u32 = 1;
pub(super) const AUTO: u32 = 1 << 1;
/// Whoever does not understand the extra data may use the bitmap nevertheless.
const EXTRA_COMPATIBLE: u32 = 1 << 2;

const ENTRY_LEN: usize = 24;
const DIRTY_TRACKING: u8 = 1;

/// Where the directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BitmapsExtension {
    pub(super) count: u32,
    pub(super) directory_len: u64,
    pub(super) directory: u64,
}

impl BitmapsExtension {
    pub(super) fn parse(value: &[u8]) -> Result<BitmapsExtension> {
        if value.len() != ENTRY_LEN {
            return Err(invalid("bitmaps_ext: Invalid extension length"));
        }
        let extension = BitmapsExtension {
            count: u32_at(value, 0),
            directory_len: u64_at(value, 8),
            directory: u64_at(value, 16),
        };
        if extension.count == 0 {
            return Err(invalid("found bitmaps extension with zero bitmaps"));
        }
        if extension.count > BITMAPS_MAX {
            return Err(invalid("bitmaps_ext: too many dirty bitmaps"));
        }
        if extension.directory_len > DIRECTORY_LEN_MAX {
            return Err(invalid(
                "bitmaps_ext: bitmap directory size exceeds the maximum",
            ));
        }
        Ok(extension)
    }

    pub(super) fn encode(self) -> Vec<u8> {
        let mut bytes = self.count.to_be_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(self.directory_len.to_be_bytes());
        bytes.extend(self.directory.to_be_bytes());
        bytes
    }
}

/// An entry of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DirectoryEntry {
    pub(super) table: u64,
    /// In entries.
    pub(super) table_len: u32,
    pub(super) flags: u32,
    pub(super) granularity_bits: u8,
    pub(super) name: String,
    /// Not understood here.
    extra: Vec<u8>,
}

impl DirectoryEntry {
    pub(super) fn new(name: &str, granularity: u64, flags: u32) -> DirectoryEntry {
        DirectoryEntry {
            table: 0,
            table_len: 0,
            flags,
            granularity_bits: u8::try_from(granularity.trailing_zeros()).unwrap_or(u8::MAX),
            name: name.to_owned(),
            extra: Vec::new(),
        }
    }

    pub(super) fn granularity(&self) -> u64 {
        1 << self.granularity_bits
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.table.to_be_bytes().to_vec();
        bytes.extend(self.table_len.to_be_bytes());
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend([DIRTY_TRACKING, self.granularity_bits]);
        let name_len = u16::try_from(self.name.len()).unwrap_or(u16::MAX);
        bytes.extend(name_len.to_be_bytes());
        let extra_len = u32::try_from(self.extra.len()).unwrap_or(u32::MAX);
        bytes.extend(extra_len.to_be_bytes());
        bytes.extend(&self.extra);
        bytes.extend(self.name.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    /// Reads the entry at the beginning of `bytes`, and how long it is.
    fn parse(bytes: &[u8]) -> Result<(DirectoryEntry, usize)> {
        let wrong = || invalid("Bitmap directory is malformed");
        if bytes.len() < ENTRY_LEN {
            return Err(wrong());
        }
        let name_len = usize::from(u16::from_be_bytes([bytes[18], bytes[19]]));
        let extra_len = get_u32(bytes, 20)? as usize;
        let name_start = ENTRY_LEN.checked_add(extra_len).ok_or_else(wrong)?;
        let end = name_start.checked_add(name_len).ok_or_else(wrong)?;
        let name = bytes.get(name_start..end).ok_or_else(wrong)?;
        let name = str::from_utf8(name).map_err(|_| wrong())?;
        let entry = DirectoryEntry {
            table: u64_at(bytes, 0),
            table_len: u32_at(bytes, 8),
            flags: u32_at(bytes, 12),
            granularity_bits: bytes[17],
            name: name.to_owned(),
            extra: bytes[ENTRY_LEN..name_start].to_vec(),
        };
        let is_right = bytes[16] == DIRTY_TRACKING
            && (9..=31).contains(&entry.granularity_bits)
            && entry.flags & !(IN_USE | AUTO | EXTRA_COMPATIBLE) == 0
            && entry.table_len <= TABLE_ENTRIES_MAX
            && !name.is_empty()
            && name.len() <= NAME_LEN_MAX
            && (entry.extra.is_empty() || entry.flags & EXTRA_COMPATIBLE != 0);
        match is_right {
            true => Ok((entry, end.next_multiple_of(8))),
            false => Err(invalid(format!(
                "Bitmap '{name}' doesn't satisfy the constraints"
            ))),
        }
    }
}

/// The entries of a directory.
pub(super) fn parse_directory(bytes: &[u8], count: u32) -> Result<Vec<DirectoryEntry>> {
    let (mut entries, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let (entry, len) = DirectoryEntry::parse(&bytes[at..])?;
        at += len;
        entries.push(entry);
    }
    let mut names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    match at == bytes.len() && entries.len() == count as usize && names.len() == entries.len() {
        true => Ok(entries),
        false => Err(invalid("Bitmap directory is malformed")),
    }
}

pub(super) fn encode_directory(entries: &[DirectoryEntry]) -> Vec<u8> {
    entries.iter().flat_map(DirectoryEntry::encode).collect()
}

#[cfg(test)]
mod tests;
