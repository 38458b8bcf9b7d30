//! `vdi`: VirtualBox's images, dynamic and fixed, which are only read.
//!
//! A header, a table with the place of each block of 1 MiB, then the blocks. Images over another image are refused. Checks and texts
//! are QEMU's.
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;

use super::mapped::{
    self, BlockMap, DiskExtent, HeaderFields, ImageTables, check_read_only, could_not_open,
    invalid, read_node, unsupported,
};
use super::{BLOCKDEV_REF, DriverType, child};
use crate::Result;
use crate::block::driver::{BlockDriver, Driver, NewNode};
use crate::block::image_info::ImageInfo;
use crate::block::node::Node;
use crate::block::request::SECTOR;
use crate::object::Options;
use crate::schema::{Member, ValueType};

/// The driver `vdi`.
pub(super) const VDI: DriverType = DriverType {
    name: "vdi",
    members: &[Member::new("file", ValueType::Alternate(&BLOCKDEV_REF))],
    open,
};

const HEADER_LEN: usize = 512;
const SIGNATURE: u32 = 0xbeda_107f;
const VERSION: u32 = 0x0001_0001;
const BLOCK: u64 = 1 << 20;
const BLOCKS_MAX: u32 = 0x1fff_ffff;
const DYNAMIC: u32 = 1;
const FIXED: u32 = 2;
/// This and the number below it are no places of blocks.
const UNALLOCATED: u32 = 0xffff_ffff;
const DISCARDED: u32 = 0xffff_fffe;

/// Where the blocks are.
#[derive(Debug)]
struct VdiMap {
    table: u64,
    data: u64,
    blocks: u32,
}

/// Opens what `-blockdev driver=vdi` describes.
fn open(keys: &mut Options, node: &NewNode<'_>) -> Result<Box<dyn BlockDriver>> {
    check_read_only(Driver::Vdi, node)?;
    over(&child::take(keys, "file", node)?, node)
}

/// Opens the image in `file`.
pub(in crate::block) fn over(file: &Arc<Node>, node: &NewNode<'_>) -> Result<Box<dyn BlockDriver>> {
    let failed = |error| could_not_open(file, &error);
    file.refresh_length().map_err(failed)?;
    let header = read_node(file, 0, HEADER_LEN).map_err(failed)?;
    let (map, length) = parse(HeaderFields(&header), file.length()).map_err(failed)?;
    let kind = (Driver::Vdi, ImageInfo::with_clusters(BLOCK));
    mapped::driver(kind, node, vec![Arc::clone(file)], map, length)
}

/// The map and the length of the disk, from the header of a file of `file_len` bytes.
fn parse(header: HeaderFields<'_>, file_len: u64) -> Result<(VdiMap, u64)> {
    if header.u32(0x40) != SIGNATURE {
        return Err(invalid("Image not in VDI format"));
    }
    let version = header.u32(0x44);
    if version != VERSION {
        let (major, minor) = (version >> 16, version & 0xffff);
        return Err(unsupported(format!(
            "unsupported VDI image (version {major}.{minor})"
        )));
    }
    check_kind(header)?;
    let map = VdiMap {
        table: header.u32(0x154).into(),
        data: header.u32(0x158).into(),
        blocks: header.u32(0x180),
    };
    map.check(header, file_len)?;
    let length = header.u64(0x170).checked_next_multiple_of(SECTOR);
    let length = length.filter(|&length| length <= u64::from(map.blocks) * BLOCK);
    let length = length.ok_or_else(|| {
        let (size, blocks) = (header.u64(0x170), map.blocks);
        unsupported(format!(
            "unsupported VDI image (disk size {size}, image bitmap has room for {blocks} blocks)"
        ))
    })?;
    Ok((map, length))
}

/// Checks that the image stands alone.
fn check_kind(header: HeaderFields<'_>) -> Result<()> {
    let kind = header.u32(0x4c);
    if kind != DYNAMIC && kind != FIXED {
        let message = match kind {
            4 => "unsupported VDI image (differencing)".to_owned(),
            _ => format!("unsupported VDI image (type {kind})"),
        };
        return Err(unsupported(message));
    }
    let is_null = |at| header.array::<16>(at) == [0; 16];
    if !is_null(0x1a8) {
        return Err(unsupported("unsupported VDI image (non-NULL link UUID)"));
    }
    if !is_null(0x1b8) {
        return Err(unsupported("unsupported VDI image (non-NULL parent UUID)"));
    }
    Ok(())
}

impl VdiMap {
    /// Checks sizes, and that the table is in the file.
    fn check(&self, header: HeaderFields<'_>, file_len: u64) -> Result<()> {
        let unit_cases: [(u64, _, _); 3] = [
            (header.u32(0x168).into(), SECTOR, "sector size"),
            (header.u32(0x178).into(), BLOCK, "block size"),
            (header.u32(0x17c).into(), 0, "extra bytes per block"),
        ];
        for (found, supported, what) in unit_cases {
            if found != supported {
                let message = format!("unsupported VDI image ({what} {found} is not {supported})");
                return Err(unsupported(message));
            }
        }
        for (offset, what) in [(self.table, "block map"), (self.data, "data")] {
            if !offset.is_multiple_of(SECTOR) {
                let message =
                    format!("unsupported VDI image (unaligned {what} offset {offset:#x})");
                return Err(unsupported(message));
            }
        }
        if self.blocks > BLOCKS_MAX {
            return Err(unsupported(format!(
                "unsupported VDI image (too many blocks {}, max is {BLOCKS_MAX})",
                self.blocks
            )));
        }
        let table_end = self.table + u64::from(self.blocks) * 4;
        if self.table < HEADER_LEN as u64 || table_end > file_len {
            return Err(invalid("the VDI image's block map is not within the file"));
        }
        Ok(())
    }
}

impl BlockMap for VdiMap {
    async fn find(&self, tables: &ImageTables<'_>, offset: u64) -> io::Result<DiskExtent> {
        let (block, within) = (offset / BLOCK, offset % BLOCK);
        let rest = BLOCK - within;
        if block >= u64::from(self.blocks) {
            return Ok(DiskExtent::zeroes(0));
        }
        let place = tables.u32(0, self.table + block * 4).await?;
        Ok(match place {
            UNALLOCATED | DISCARDED => DiskExtent::zeroes(rest),
            place => {
                let start = self.data + u64::from(place) * BLOCK;
                DiskExtent::plain(rest, 0, start + within)
            }
        })
    }
}
