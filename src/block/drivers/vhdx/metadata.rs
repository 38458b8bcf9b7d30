//! The metadata of a VHDX image: the sizes of the disk, its sectors and its blocks.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use crate::Result;
use crate::block::drivers::mapped::{HeaderFields, invalid, read_node, unsupported};
use crate::block::node::Node;

const TABLE_LEN: usize = 64 << 10;
const ENTRY_LEN: usize = 32;
const ENTRIES_MAX: usize = 2047;

const BLOCK_SIZES: Range<u64> = 1 << 20..(256 << 20) + 1;
/// 64 TiB.
const DISK_SIZE_MAX: u64 = 64 << 40;

/// As the file has it: caa16737-fa36-4d43-b3b6-33f0aa44e76b.
const FILE_PARAMETERS: [u8; 16] = [
    0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b,
];
/// As the file has it: 2fa54224-cd1b-4876-b211-5dbed83bf4b8.
const DISK_SIZE: [u8; 16] = [
    0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8,
];
/// As the file has it: 8141bf1d-a96f-4709-ba47-f233a8faab5f.
const SECTOR_SIZE: [u8; 16] = [
    0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47, 0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f,
];
/// Items that say nothing about where data is: the disk's id (beca12ab-b2e6-4523-93ef-c309e000c746), the size of physical
/// sectors (cda348c7-445d-4471-9cc9-e9885251c556), and the parent locator (a8d35f2d-b30b-454d-abf7-d3d84834ab0c) of an image that
/// has a parent, which is refused.
const OTHERS: [[u8; 16]; 3] = [
    [
        0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23, 0x45, 0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7,
        0x46,
    ],
    [
        0xc7, 0x48, 0xa3, 0xcd, 0x5d, 0x44, 0x71, 0x44, 0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5,
        0x56,
    ],
    [
        0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab,
        0x0c,
    ],
];

/// What matters of it.
#[derive(Debug)]
pub(super) struct VhdxMetadata {
    pub(super) disk_size: u64,
    /// A power of two from 1 MiB to 256 MiB.
    pub(super) block_size: u64,
    /// 512 or 4096.
    pub(super) sector_size: u64,
}

/// An item, by the place of its value.
struct Item {
    id: [u8; 16],
    value: Range<u64>,
}

impl VhdxMetadata {
    /// Reads the metadata, which is in `region`.
    pub(super) fn read(file: &Arc<Node>, region: &Range<u64>) -> Result<VhdxMetadata> {
        let items = items(&read_node(file, region.start, TABLE_LEN)?, region)?;
        let value = |id| {
            let item = items.iter().find(|item| item.id == id);
            let item = item.ok_or_else(|| invalid("the VHDX image lacks a metadata item"))?;
            // The longest value that is used has 8 bytes.
            let len = (item.value.end - item.value.start).min(8);
            read_node(file, item.value.start, usize::try_from(len).unwrap_or(0))
        };
        let parameters = value(FILE_PARAMETERS)?;
        let parameters = HeaderFields(&parameters);
        if parameters.u32(4) & 2 != 0 {
            let message = "VHDX images with a parent (differencing) are not supported";
            return Err(unsupported(message));
        }
        let metadata = VhdxMetadata {
            block_size: parameters.u32(0).into(),
            disk_size: HeaderFields(&value(DISK_SIZE)?).u64(0),
            sector_size: HeaderFields(&value(SECTOR_SIZE)?).u32(0).into(),
        };
        metadata.check()?;
        Ok(metadata)
    }

    fn check(&self) -> Result<()> {
        let (block, sector, disk) = (self.block_size, self.sector_size, self.disk_size);
        if sector != 512 && sector != 4096 {
            return Err(unsupported(format!(
                "unsupported VHDX sector size {sector}"
            )));
        }
        if !block.is_power_of_two() || !BLOCK_SIZES.contains(&block) {
            return Err(invalid(format!("invalid VHDX block size {block}")));
        }
        if disk > DISK_SIZE_MAX || !disk.is_multiple_of(sector) {
            return Err(invalid(format!("invalid VHDX disk size {disk}")));
        }
        Ok(())
    }
}

/// The items of the table. None may be outside of the region or be required and unknown.
fn items(table: &[u8], region: &Range<u64>) -> Result<Vec<Item>> {
    let fields = HeaderFields(table);
    let count = usize::from(fields.u16(10));
    if !table.starts_with(b"metadata") || count > ENTRIES_MAX {
        return Err(invalid("the VHDX image's metadata table is invalid"));
    }
    let entries = table[ENTRY_LEN..].chunks_exact(ENTRY_LEN).take(count);
    entries
        .map(|entry| item(HeaderFields(entry), region))
        .collect()
}

fn item(entry: HeaderFields<'_>, region: &Range<u64>) -> Result<Item> {
    let id = entry.array(0);
    let is_known = [FILE_PARAMETERS, DISK_SIZE, SECTOR_SIZE].contains(&id) || OTHERS.contains(&id);
    if !is_known && entry.u32(24) & 4 != 0 {
        let message = "the VHDX image has an unknown required metadata item";
        return Err(unsupported(message));
    }
    let start = region.start + u64::from(entry.u32(16));
    let end = start + u64::from(entry.u32(20));
    let is_behind_table = start >= region.start + TABLE_LEN as u64;
    if end > region.end || (is_known && !is_behind_table) {
        return Err(invalid("a VHDX metadata item is not within its region"));
    }
    Ok(Item {
        id,
        value: start..end,
    })
}
