//! The regions of a VHDX image: the block allocation table and the metadata.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use super::checksum::is_intact;
use crate::Result;
use crate::block::drivers::mapped::{HeaderFields, invalid, read_node, unsupported};
use crate::block::node::Node;

const TABLE_LEN: usize = 64 << 10;
const PLACES: [u64; 2] = [192 << 10, 256 << 10];
const ENTRY_LEN: usize = 32;
const ENTRIES_MAX: usize = 2047;
const MIB: u64 = 1 << 20;

/// As the file has it: 2dc27766-f623-4200-9d64-115e9bfd4a08.
const TABLE_ID: [u8; 16] = [
    0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42, 0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08,
];
/// As the file has it: 8b7ca206-4790-4b9a-b8fe-575f050f886e.
const METADATA_ID: [u8; 16] = [
    0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e,
];

/// Where the regions are.
#[derive(Debug)]
pub(super) struct Regions {
    /// The block allocation table.
    pub(super) table: Range<u64>,
    pub(super) metadata: Range<u64>,
}

impl Regions {
    /// Reads the table of regions. No region may overlap the headers, the log or another one.
    pub(super) fn read(file: &Arc<Node>, log: &Range<u64>) -> Result<Regions> {
        let bytes = intact_table(file)?;
        let fields = HeaderFields(&bytes);
        let count = usize::try_from(fields.u32(8)).unwrap_or(usize::MAX);
        if count > ENTRIES_MAX {
            return Err(invalid("the VHDX image has too many regions"));
        }
        let mut used = vec![0..MIB, log.clone()];
        let (mut table, mut metadata) = (None, None);
        for entry in bytes[16..].chunks_exact(ENTRY_LEN).take(count) {
            let range = range(HeaderFields(entry), file.length())?;
            let overlaps = |other: &Range<u64>| range.start < other.end && other.start < range.end;
            if used.iter().any(overlaps) {
                return Err(invalid("VHDX regions overlap"));
            }
            used.push(range.clone());
            let place = match HeaderFields(entry).array(0) {
                TABLE_ID => &mut table,
                METADATA_ID => &mut metadata,
                _ if HeaderFields(entry).u32(28) & 1 == 0 => continue,
                _ => return Err(unsupported("the VHDX image has an unknown required region")),
            };
            if place.replace(range).is_some() {
                return Err(invalid("the VHDX image has a region twice"));
            }
        }
        let missing = || invalid("the VHDX image lacks a region");
        Ok(Regions {
            table: table.ok_or_else(missing)?,
            metadata: metadata.ok_or_else(missing)?,
        })
    }
}

/// The first copy of the table that is intact.
fn intact_table(file: &Arc<Node>) -> Result<Vec<u8>> {
    for place in PLACES {
        let bytes = read_node(file, place, TABLE_LEN)?;
        if bytes.starts_with(b"regi") && is_intact(&bytes) {
            return Ok(bytes);
        }
    }
    Err(invalid("No valid VHDX region table found"))
}

/// The place of a region, in whole MiB and within the file.
fn range(entry: HeaderFields<'_>, file_len: u64) -> Result<Range<u64>> {
    let (offset, len) = (entry.u64(16), u64::from(entry.u32(24)));
    let end = offset.checked_add(len).filter(|&end| end <= file_len);
    let is_aligned = offset.is_multiple_of(MIB) && len.is_multiple_of(MIB) && len > 0;
    match end.filter(|_| is_aligned) {
        Some(end) => Ok(offset..end),
        None => Err(invalid(
            "a VHDX region is not aligned or not within the file",
        )),
    }
}
