//! The header of a qcow2 image, read and checked before anything else looks at the image.
//!
//! An image may come from anywhere. The crate that maps clusters (imago) takes some fields as they are: it opens encrypted
//! images as if they were plain, and it writes to images whose bitmaps become wrong by that. So what it must not see is
//! refused here, as are tables that lie outside of the file. Texts are QEMU's where QEMU refuses the same.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::bitmaps::{self, BitmapsExtension};
use crate::block::image_info::{ImageInfo, ImageSpecific, NamedBacking, Qcow2Info};
use crate::block::node::Node;
use crate::{Error, ErrorKind, Result};

mod checks;
pub(super) mod rewrite;
#[cfg(test)]
mod tests;

pub(super) use checks::REFCOUNT_TABLE_BYTES_MAX;

/// The bytes of all fields that are used.
pub(super) const FIXED_LEN: usize = 104;

const MAGIC: &[u8] = b"QFI\xfb";

pub(super) const DIRTY: u64 = 1;
pub(super) const CORRUPT: u64 = 1 << 1;
pub(super) const DATA_FILE: u64 = 1 << 2;
pub(super) const COMPRESSION: u64 = 1 << 3;
pub(super) const EXTENDED_L2: u64 = 1 << 4;

const LAZY_REFCOUNTS: u64 = 1;

pub(super) const BITMAPS: u64 = 1;
pub(super) const RAW_DATA: u64 = 1 << 1;

const BACKING_FORMAT: u32 = 0xe279_2aca;
const DATA_FILE_NAME: u32 = 0x4441_5441;

/// The longest name of another file.
const NAME_MAX: u32 = 1023;

/// The fields that matter.
#[derive(Debug, Default)]
pub(super) struct Qcow2Header {
    version: u32,
    backing_offset: u64,
    backing_len: u32,
    cluster_bits: u32,
    size: u64,
    crypt_method: u32,
    l1_size: u32,
    l1_offset: u64,
    refcount_offset: u64,
    refcount_clusters: u32,
    snapshots: u32,
    incompatible: u64,
    compatible: u64,
    autoclear: u64,
    refcount_order: u32,
    header_len: u32,
    /// The backing file that the image names.
    pub(super) backing_file: Option<String>,
    /// Its format, if the image says so.
    pub(super) backing_format: Option<String>,
    /// The data file that the image names.
    pub(super) data_file: Option<String>,
    bitmaps: Option<BitmapsExtension>,
}

impl Qcow2Header {
    /// Reads the fixed fields, of which there are `FIXED_LEN` bytes.
    ///
    /// # Errors
    /// `InvalidArgument` if this is no qcow2 image, or one whose header cannot be right.
    pub(super) fn parse(start: &[u8]) -> Result<Qcow2Header> {
        if !start.starts_with(MAGIC) || start.len() < FIXED_LEN {
            return Err(invalid("Image is not in qcow2 format"));
        }
        let version = u32_at(start, 4);
        let mut header = Qcow2Header {
            version,
            backing_offset: u64_at(start, 8),
            backing_len: u32_at(start, 16),
            cluster_bits: u32_at(start, 20),
            size: u64_at(start, 24),
            crypt_method: u32_at(start, 32),
            l1_size: u32_at(start, 36),
            l1_offset: u64_at(start, 40),
            refcount_offset: u64_at(start, 48),
            refcount_clusters: u32_at(start, 56),
            snapshots: u32_at(start, 60),
            refcount_order: 4,
            header_len: 72,
            ..Qcow2Header::default()
        };
        match version {
            2 => {}
            3 => {
                header.incompatible = u64_at(start, 72);
                header.compatible = u64_at(start, 80);
                header.autoclear = u64_at(start, 88);
                header.refcount_order = u32_at(start, 96);
                header.header_len = u32_at(start, 100);
            }
            _ => return Err(unsupported(format!("Unsupported qcow2 version {version}"))),
        }
        header.check_sizes()?;
        Ok(header)
    }

    /// Reads the names of other files out of the first cluster, of which `cluster` has all bytes that the file has.
    ///
    /// # Errors
    /// `InvalidArgument` if they lie outside of it or make no sense.
    pub(super) fn parse_names(&mut self, cluster: &[u8]) -> Result<()> {
        if self.backing_offset != 0 {
            self.backing_file = Some(self.read_backing_name(cluster)?);
        }
        // Extensions end where the name of the backing file begins, if not before.
        let name_start = usize::try_from(self.backing_offset).ok();
        let limit = name_start.filter(|&start| start != 0 && start < cluster.len());
        let cluster = &cluster[..limit.unwrap_or(cluster.len())];
        let mut at = self.header_len as usize;
        while at < cluster.len() {
            let kind = get_u32(cluster, at)?;
            let len = get_u32(cluster, at + 4)? as usize;
            at += 8;
            let end = at.checked_add(len).filter(|&end| end <= cluster.len());
            let value = end.and_then(|end| cluster.get(at..end));
            let value = value.ok_or_else(|| invalid("Header extension too large"))?;
            match kind {
                0 => return Ok(()),
                BACKING_FORMAT => self.backing_format = Some(text(value)?),
                DATA_FILE_NAME => self.data_file = Some(text(value)?),
                // If the bit is clear, somebody changed the image who knew nothing of bitmaps.
                bitmaps::EXTENSION if self.autoclear & BITMAPS != 0 => {
                    self.bitmaps = Some(BitmapsExtension::parse(value)?);
                }
                _ => {}
            }
            at += len.next_multiple_of(8);
        }
        Ok(())
    }

    fn read_backing_name(&self, cluster: &[u8]) -> Result<String> {
        if self.backing_len > NAME_MAX {
            return Err(invalid("Backing file name too long"));
        }
        let start = usize::try_from(self.backing_offset).ok();
        let end = start.and_then(|start| start.checked_add(self.backing_len as usize));
        let name = start.zip(end).and_then(|(from, to)| cluster.get(from..to));
        text(name.ok_or_else(|| invalid("Invalid backing file offset"))?)
    }

    pub(super) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// The length of the disk.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// How wide a refcount is.
    pub(super) fn refcount_bits(&self) -> u64 {
        1 << self.refcount_order
    }

    /// Where the directory of the bitmaps is, if there are any.
    pub(super) fn bitmaps(&self) -> Option<BitmapsExtension> {
        self.bitmaps
    }

    /// Whether the image can have bitmaps.
    pub(super) fn can_have_bitmaps(&self) -> bool {
        self.version >= 3
    }

    /// Checks that the disk may become longer or shorter: each snapshot must know how long it was.
    ///
    /// # Errors
    /// `Unsupported` for an old image with snapshots.
    pub(super) fn check_resizable(&self) -> Result<()> {
        match self.version < 3 && self.snapshots > 0 {
            true => Err(unsupported("Can't resize a v2 image which has snapshots")),
            false => Ok(()),
        }
    }

    /// Whether the guest's data is in a file of its own.
    pub(super) fn has_data_file(&self) -> bool {
        self.incompatible & DATA_FILE != 0
    }

    /// What it says about the image in `file`.
    pub(super) fn image_info(&self, file: &Node) -> ImageInfo {
        let format = self.backing_format.as_deref();
        let backing = self.backing_file.as_deref();
        let is_raw = self.autoclear & RAW_DATA != 0;
        let data_name = || self.data_file.clone().unwrap_or_default();
        ImageInfo {
            backing: backing.map(|name| NamedBacking::new(name, format, file)),
            specific: Some(ImageSpecific::Qcow2(Qcow2Info {
                version: self.version,
                lazy_refcounts: self.compatible & LAZY_REFCOUNTS != 0,
                refcount_bits: 1 << self.refcount_order,
                data_file: self.has_data_file().then(|| (data_name(), is_raw)),
            })),
            ..ImageInfo::with_clusters(self.cluster_size())
        }
    }

    /// Where the L1 table is.
    pub(super) fn l1_table(&self) -> Range<u64> {
        let len = (u64::from(self.l1_size) * 8).next_multiple_of(self.cluster_size());
        self.l1_offset..self.l1_offset + len
    }

    /// Where the refcount table is, and how long.
    pub(super) fn refcount_table(&self) -> (u64, usize) {
        let len = self.refcount_clusters as usize * (1 << self.cluster_bits);
        (self.refcount_offset, len)
    }
}

fn text(bytes: &[u8]) -> Result<String> {
    let text = str::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0'));
    let text = text.filter(|text| !text.is_empty() && text.len() <= NAME_MAX as usize);
    text.map(str::to_owned)
        .ok_or_else(|| invalid("The image has a name that is no text"))
}

pub(super) fn get_u32(bytes: &[u8], at: usize) -> Result<u32> {
    if at.checked_add(4).is_none_or(|end| end > bytes.len()) {
        return Err(invalid("Header extension too large"));
    }
    Ok(u32_at(bytes, at))
}

/// The caller knows that there are so many bytes.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(four)
}

/// The caller knows that there are so many bytes.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4))
}

pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidArgument, message.into())
}

pub(super) fn unsupported(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, message.into())
}
