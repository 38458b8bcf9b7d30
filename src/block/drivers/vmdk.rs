//! `vmdk`: VMware's images, which are only read.
//!
//! An image is one file with a header, or a descriptor that names the files of its extents. Supported are the types
//! monolithicSparse, streamOptimized, monolithicFlat, twoGbMaxExtentSparse, twoGbMaxExtentFlat and vmfs.
//!
//! * [`descriptor`]: the text that describes an image
//! * [`sparse`]: extents with tables
//!
//! Extents are regular files in the image's folder or below it. Images over another image are refused. Checks and texts are QEMU's.
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;

use super::backing;
use super::mapped::{
    self, BlockMap, DiskExtent, HeaderFields, ImageTables, check_read_only, could_not_open,
    invalid, read_node, unsupported,
};
use super::{BLOCKDEV_REF, DriverType, child};
use crate::Result;
use crate::block::driver::{BlockDriver, Driver, NewNode};
use crate::block::image_info::{ImageInfo, ImageSpecific, VmdkExtentInfo, VmdkInfo};
use crate::block::node::Node;
use crate::block::request::SECTOR;
use crate::object::Options;
use crate::schema::{Member, ValueType};

mod descriptor;
mod sparse;

use descriptor::{Descriptor, ExtentKind};
use sparse::SparseExtent;

/// The driver `vmdk`.
pub(super) const VMDK: DriverType = DriverType {
    name: "vmdk",
    members: &[Member::new("file", ValueType::Alternate(&BLOCKDEV_REF))],
    open,
};

const DESCRIPTOR_MAX: u64 = 1 << 20;
const DISK_SIZE_MAX: u64 = i64::MAX.cast_unsigned() / SECTOR * SECTOR;

/// The extents of an image, in the order of the disk.
#[derive(Debug, Default)]
struct VmdkMap(Vec<PlacedExtent>);

/// An extent, at its place on the disk.
#[derive(Debug)]
struct PlacedExtent {
    start: u64,
    length: u64,
    data: ExtentData,
}

#[derive(Debug)]
enum ExtentData {
    Zeroes,
    Flat { file: usize, offset: u64 },
    Sparse { file: usize, extent: SparseExtent },
}

/// An image that is being opened.
#[derive(Debug, Default)]
struct NewImage {
    map: VmdkMap,
    files: Vec<Arc<Node>>,
    length: u64,
    info: VmdkInfo,
}

/// Opens what `-blockdev driver=vmdk` describes.
fn open(keys: &mut Options, node: &NewNode<'_>) -> Result<Box<dyn BlockDriver>> {
    check_read_only(Driver::Vmdk, node)?;
    over(&child::take(keys, "file", node)?, node)
}

/// Opens the image in `file`.
pub(in crate::block) fn over(file: &Arc<Node>, node: &NewNode<'_>) -> Result<Box<dyn BlockDriver>> {
    let image = NewImage::open(file).map_err(|error| could_not_open(file, &error))?;
    let info = image.info();
    let NewImage {
        map, files, length, ..
    } = image;
    mapped::driver((Driver::Vmdk, info), node, files, map, length)
}

impl NewImage {
    fn open(file: &Arc<Node>) -> Result<NewImage> {
        file.refresh_length()?;
        let mut image = NewImage::default();
        image.files.push(Arc::clone(file));
        let start = read_node(file, 0, 4)?;
        match start.as_slice() {
            sparse::SIGNATURE => image.add_monolithic(file)?,
            b"COWD" => {
                return Err(unsupported(
                    "VMDK images of version 3 (COWD) are not supported",
                ));
            }
            _ => image.add_described(file)?,
        }
        Ok(image)
    }

    /// The image is one extent, with its descriptor in it.
    fn add_monolithic(&mut self, file: &Arc<Node>) -> Result<()> {
        let header = read_node(file, 0, sparse::HEADER_LEN)?;
        let fields = HeaderFields(&header);
        if fields.u64(28) != 0 {
            let offset = fields.u64(28).checked_mul(SECTOR);
            let len = fields.u64(36).checked_mul(SECTOR);
            let place = offset.zip(len.filter(|&len| len <= DESCRIPTOR_MAX));
            let place = place.ok_or_else(|| invalid("the VMDK descriptor is too large"))?;
            let text = read_node(file, place.0, usize::try_from(place.1).unwrap_or(0))?;
            let descriptor = Descriptor::parse(&text)?;
            descriptor.check_parent()?;
            self.info = descriptor.info();
        }
        let (extent, length) = SparseExtent::open(file)?;
        let data = ExtentData::Sparse { file: 0, extent };
        self.add(length, data, "")
    }

    /// The image is a text that names its extents.
    fn add_described(&mut self, file: &Arc<Node>) -> Result<()> {
        if file.length() > DESCRIPTOR_MAX {
            return Err(invalid("Image not in VMDK format"));
        }
        let len = usize::try_from(file.length()).unwrap_or(0);
        let descriptor = Descriptor::parse(&read_node(file, 0, len)?)?;
        descriptor.check_parent()?;
        descriptor.check_type()?;
        self.info = descriptor.info();
        for line in &descriptor.extents {
            let data = match line.kind {
                ExtentKind::Zeroes => ExtentData::Zeroes,
                ExtentKind::Flat { offset } => ExtentData::Flat {
                    file: self.add_file(&line.file, file)?,
                    offset,
                },
                ExtentKind::Sparse => self.sparse(&line.file, line.length, file)?,
            };
            self.add(line.length, data, line.kind_name)?;
        }
        Ok(())
    }

    fn sparse(&mut self, name: &str, length: u64, image: &Arc<Node>) -> Result<ExtentData> {
        let file = self.add_file(name, image)?;
        let (extent, capacity) = SparseExtent::open(&self.files[file])?;
        if capacity < length {
            let message = format!("the extent '{name}' is shorter than the descriptor says");
            return Err(invalid(message));
        }
        Ok(ExtentData::Sparse { file, extent })
    }

    /// Opens a file of the image; its index.
    fn add_file(&mut self, name: &str, image: &Arc<Node>) -> Result<usize> {
        self.files.push(backing::open_part(name, image)?);
        Ok(self.files.len() - 1)
    }

    fn add(&mut self, length: u64, data: ExtentData, format: &str) -> Result<()> {
        let start = self.length;
        let end = start
            .checked_add(length)
            .filter(|&end| end <= DISK_SIZE_MAX);
        self.length = end.ok_or_else(|| invalid("the VMDK image is too large"))?;
        self.describe(&data, length, format);
        self.map.0.push(PlacedExtent {
            start,
            length,
            data,
        });
        Ok(())
    }

    fn describe(&mut self, data: &ExtentData, length: u64, format: &str) {
        let (file, sparse) = match data {
            ExtentData::Zeroes => return,
            ExtentData::Flat { file, .. } => (*file, None),
            ExtentData::Sparse { file, extent } => (*file, Some(extent)),
        };
        let file = &self.files[file];
        self.info.extents.push(VmdkExtentInfo {
            file_name: file.filename().unwrap_or_else(|| file.name().to_owned()),
            format: format.to_owned(),
            length,
            cluster_size: sparse.map(SparseExtent::grain),
            is_compressed: sparse.is_some_and(SparseExtent::is_packed),
        });
    }

    /// As in QEMU, the first extent stands for all.
    fn info(&self) -> ImageInfo {
        let first = self.info.extents.first();
        ImageInfo {
            knows_dirty: true,
            cluster_size: first.and_then(|extent| extent.cluster_size),
            specific: Some(ImageSpecific::Vmdk(self.info.clone())),
            ..ImageInfo::default()
        }
    }
}

impl BlockMap for VmdkMap {
    async fn find(&self, tables: &ImageTables<'_>, offset: u64) -> io::Result<DiskExtent> {
        let index = self.0.partition_point(|extent| extent.start <= offset);
        let extent = index.checked_sub(1).and_then(|index| self.0.get(index));
        let Some(extent) = extent else {
            return Ok(DiskExtent::zeroes(0));
        };
        let within = offset - extent.start;
        let rest = extent.length.saturating_sub(within);
        match &extent.data {
            ExtentData::Zeroes => Ok(DiskExtent::zeroes(rest)),
            ExtentData::Flat {
                file,
                offset: start,
            } => Ok(DiskExtent::plain(rest, *file, start.saturating_add(within))),
            ExtentData::Sparse { file, extent } => {
                let mut found = extent.find(tables, *file, within).await?;
                found.length = found.length.min(rest);
                Ok(found)
            }
        }
    }
}
