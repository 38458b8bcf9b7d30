//! `vhdx`: Hyper-V's images, dynamic and fixed, which are only read.
//!
//! * [`header`]: which of the two headers counts, and whether the log is empty
//! * [`regions`]: where the block allocation table and the metadata are
//! * [`metadata`]: the sizes of the disk, its sectors and its blocks
//! * [`checksum`][]: CRC-32C
//!
//! A log that was not replayed is refused, with what replays it, as are images over another image. Checks and texts are QEMU's.
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;

use super::mapped::{
    self, BlockMap, DiskExtent, ImageTables, check_read_only, corrupt, could_not_open, invalid,
    read_node,
};
use super::{BLOCKDEV_REF, DriverType, child};
use crate::Result;
use crate::block::driver::{BlockDriver, Driver, NewNode};
use crate::block::image_info::ImageInfo;
use crate::block::node::Node;
use crate::object::Options;
use crate::schema::{Member, ValueType};

mod checksum;
mod header;
mod metadata;
mod regions;

use metadata::VhdxMetadata;
use regions::Regions;

/// The driver `vhdx`.
pub(super) const VHDX: DriverType = DriverType {
    name: "vhdx",
    members: &[Member::new("file", ValueType::Alternate(&BLOCKDEV_REF))],
    open,
};

const MIB: u64 = 1 << 20;

/// States of a block.
const PARTIALLY_PRESENT: u64 = 7;
const FULLY_PRESENT: u64 = 6;

/// Where the blocks are.
#[derive(Debug)]
struct VhdxMap {
    /// The block allocation table.
    table: u64,
    block_size: u64,
    blocks: u64,
    /// After so many blocks the table has an entry that is for no block.
    chunk_ratio: u64,
}

/// Opens what `-blockdev driver=vhdx` describes.
fn open(keys: &mut Options, node: &NewNode<'_>) -> Result<Box<dyn BlockDriver>> {
    check_read_only(Driver::Vhdx, node)?;
    over(&child::take(keys, "file", node)?, node)
}

/// Opens the image in `file`.
pub(in crate::block) fn over(file: &Arc<Node>, node: &NewNode<'_>) -> Result<Box<dyn BlockDriver>> {
    let failed = |error| could_not_open(file, &error);
    let (map, length) = read_map(file).map_err(failed)?;
    let kind = (Driver::Vhdx, ImageInfo::with_clusters(map.block_size));
    mapped::driver(kind, node, vec![Arc::clone(file)], map, length)
}

/// The map and the length of the disk.
fn read_map(file: &Arc<Node>) -> Result<(VhdxMap, u64)> {
    file.refresh_length()?;
    if !read_node(file, 0, 8)?.starts_with(header::SIGNATURE) {
        return Err(invalid("Image not in VHDX format"));
    }
    let log = header::check(file)?;
    let regions = Regions::read(file, &log)?;
    let metadata = VhdxMetadata::read(file, &regions.metadata)?;
    let map = VhdxMap::new(&metadata, &regions)?;
    Ok((map, metadata.disk_size))
}

impl VhdxMap {
    fn new(metadata: &VhdxMetadata, regions: &Regions) -> Result<VhdxMap> {
        let block_size = metadata.block_size;
        let blocks = metadata.disk_size.div_ceil(block_size);
        let chunk_ratio = (1 << 23) * metadata.sector_size / block_size;
        let entries = blocks + blocks.saturating_sub(1) / chunk_ratio;
        let table = &regions.table;
        if entries * 8 > table.end - table.start {
            return Err(invalid("the VHDX image's BAT is too small for the disk"));
        }
        Ok(VhdxMap {
            table: table.start,
            block_size,
            blocks,
            chunk_ratio,
        })
    }
}

impl BlockMap for VhdxMap {
    async fn find(&self, tables: &ImageTables<'_>, offset: u64) -> io::Result<DiskExtent> {
        let (block, within) = (offset / self.block_size, offset % self.block_size);
        let rest = self.block_size - within;
        if block >= self.blocks {
            return Ok(DiskExtent::zeroes(0));
        }
        let index = block + block / self.chunk_ratio;
        let entry = tables.u64(0, self.table + index * 8).await?;
        match entry & 7 {
            FULLY_PRESENT => {
                let start = (entry >> 20) * MIB;
                if start < MIB {
                    return Err(corrupt("a block within the header"));
                }
                let place = start.checked_add(within);
                let place = place.ok_or_else(|| corrupt("a block behind the end of the file"))?;
                Ok(DiskExtent::plain(rest, 0, place))
            }
            PARTIALLY_PRESENT => Err(corrupt("a block of a differencing image")),
            // Not present, undefined, zero, unmapped: no data.
            0..=3 | 5 => Ok(DiskExtent::zeroes(rest)),
            _ => Err(corrupt("a block in an unknown state")),
        }
    }
}
