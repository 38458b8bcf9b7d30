//! What an image is to be, and its header.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use crate::block::create::preallocation::Preallocation;
use crate::object::Options;
use crate::{Error, ErrorKind, Result};

const MAGIC: u32 = 0x5146_49fb;
const V2_LEN: u32 = 72;
const V3_LEN: u32 = 112;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const DATA_FILE: u32 = 0x4441_5441;

/// Incompatible features.
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
/// A compatible feature.
const LAZY_REFCOUNTS: u64 = 1;
/// A feature that a program which does not know it clears.
const DATA_FILE_RAW: u64 = 1 << 1;

/// The longest name of a backing file.
const NAME_MAX: usize = 1023;

/// What an image is to be.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)] // independent features of the format
pub(super) struct Qcow2Recipe {
    pub(super) size: u64,
    pub(super) cluster_bits: u32,
    pub(super) refcount_order: u32,
    pub(super) extended_l2: bool,
    pub(super) data_file_raw: bool,
    pub(super) data_file: Option<String>,
    pub(super) backing_file: Option<String>,
    backing_format: Option<String>,
    is_v3: bool,
    lazy_refcounts: bool,
    zstd: bool,
}

/// Where tables are.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewTables {
    pub(super) l1_entries: u32,
    pub(super) l1_offset: u64,
    pub(super) refcount_table_offset: u64,
    pub(super) refcount_table_clusters: u32,
}

impl Qcow2Recipe {
    /// Takes and checks the options.
    pub(super) fn take(
        options: &mut Options,
        data_file: Option<String>,
        preallocation: Preallocation,
    ) -> Result<Qcow2Recipe> {
        let size = options.take_size("size")?.unwrap_or(0);
        if !size.is_multiple_of(512) {
            return Err(invalid("Image size must be a multiple of 512 bytes"));
        }
        let is_v3 = options.take_str("version")?.as_deref() != Some("v2");
        let extended_l2 = options.take_bool("extended-l2")?.unwrap_or(false);
        let recipe = Qcow2Recipe {
            size,
            cluster_bits: cluster_bits(options, extended_l2)?,
            refcount_order: refcount_order(options)?,
            extended_l2,
            data_file_raw: options.take_bool("data-file-raw")?.unwrap_or(false),
            data_file,
            backing_file: options.take_str("backing-file")?,
            backing_format: options.take_str("backing-fmt")?,
            is_v3,
            lazy_refcounts: options.take_bool("lazy-refcounts")?.unwrap_or(false),
            zstd: options.take_str("compression-type")?.as_deref() == Some("zstd"),
        };
        recipe.check(preallocation)?;
        Ok(recipe)
    }

    fn check(&self, preallocation: Preallocation) -> Result<()> {
        let newer = [
            (self.extended_l2, "Extended L2 entries are only supported"),
            (self.lazy_refcounts, "Lazy refcounts only supported"),
            (
                self.data_file.is_some(),
                "External data files are only supported",
            ),
            (self.zstd, "Non-zlib compression type is only supported"),
        ];
        if !self.is_v3 {
            if let Some((_, what)) = newer.iter().find(|(is_wanted, _)| *is_wanted) {
                return Err(invalid(format!(
                    "{what} with compatibility level 1.1 and above (use version=v3 or greater)"
                )));
            }
            if self.refcount_order != 4 {
                return Err(invalid(
                    "Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)",
                ));
            }
        }
        self.check_pairs(preallocation)
    }

    /// Options that do not go together.
    fn check_pairs(&self, preallocation: Preallocation) -> Result<()> {
        if self.backing_file.is_some() && preallocation != Preallocation::Off && !self.extended_l2 {
            return Err(invalid(
                "Backing file and preallocation can only be used at the same time if extended_l2 is on",
            ));
        }
        if self.backing_format.is_some() && self.backing_file.is_none() {
            return Err(invalid(
                "Backing format cannot be used without backing file",
            ));
        }
        if self.data_file_raw && self.data_file.is_none() {
            return Err(invalid("data-file-raw requires data-file"));
        }
        if self.data_file_raw && self.backing_file.is_some() {
            return Err(invalid(
                "Backing file and data-file-raw cannot be used at the same time",
            ));
        }
        let name = self.backing_file.as_deref().unwrap_or_default();
        let header = self.header(&NewTables::NOWHERE).len();
        if name.len() > NAME_MAX || header > 1 << self.cluster_bits {
            return Err(invalid("Backing file name too long"));
        }
        Ok(())
    }

    /// The bytes at the beginning of the image.
    pub(super) fn header(&self, places: &NewTables) -> Vec<u8> {
        let extensions = self.extensions();
        let length = if self.is_v3 { V3_LEN } else { V2_LEN };
        let name = self.backing_file.as_deref().unwrap_or_default();
        let name_offset = match name {
            "" => 0,
            _ => u64::from(length) + extensions.len() as u64,
        };
        let mut bytes = Vec::new();
        let version = if self.is_v3 { 3_u32 } else { 2 };
        bytes.extend(MAGIC.to_be_bytes());
        bytes.extend(version.to_be_bytes());
        bytes.extend(name_offset.to_be_bytes());
        bytes.extend(len_u32(name.len()).to_be_bytes());
        bytes.extend(self.cluster_bits.to_be_bytes());
        bytes.extend(self.size.to_be_bytes());
        // No encryption.
        bytes.extend(0_u32.to_be_bytes());
        bytes.extend(places.l1_entries.to_be_bytes());
        bytes.extend(places.l1_offset.to_be_bytes());
        bytes.extend(places.refcount_table_offset.to_be_bytes());
        bytes.extend(places.refcount_table_clusters.to_be_bytes());
        // No snapshots.
        bytes.extend(0_u32.to_be_bytes());
        bytes.extend(0_u64.to_be_bytes());
        if self.is_v3 {
            self.push_features(&mut bytes);
        }
        bytes.extend(extensions);
        bytes.extend(name.as_bytes());
        bytes
    }

    fn push_features(&self, bytes: &mut Vec<u8>) {
        let feature = |is_on: bool, bit: u64| if is_on { bit } else { 0 };
        let incompatible = feature(self.data_file.is_some(), EXTERNAL_DATA)
            | feature(self.zstd, COMPRESSION_TYPE)
            | feature(self.extended_l2, EXTENDED_L2);
        bytes.extend(incompatible.to_be_bytes());
        bytes.extend(feature(self.lazy_refcounts, LAZY_REFCOUNTS).to_be_bytes());
        bytes.extend(feature(self.data_file_raw, DATA_FILE_RAW).to_be_bytes());
        bytes.extend(self.refcount_order.to_be_bytes());
        bytes.extend(V3_LEN.to_be_bytes());
        bytes.extend([u8::from(self.zstd), 0, 0, 0, 0, 0, 0, 0]);
    }

    fn extensions(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let named = [
            (BACKING_FORMAT, &self.backing_format),
            (DATA_FILE, &self.data_file),
        ];
        for (kind, text) in named {
            if let Some(text) = text {
                bytes.extend(kind.to_be_bytes());
                bytes.extend(len_u32(text.len()).to_be_bytes());
                bytes.extend(text.as_bytes());
                bytes.resize(bytes.len().next_multiple_of(8), 0);
            }
        }
        // The end of the extensions.
        bytes.extend([0; 8]);
        bytes
    }
}

impl NewTables {
    const NOWHERE: NewTables = NewTables {
        l1_entries: 0,
        l1_offset: 0,
        refcount_table_offset: 0,
        refcount_table_clusters: 0,
    };
}

fn cluster_bits(options: &mut Options, extended_l2: bool) -> Result<u32> {
    let size = options.take_size("cluster-size")?.unwrap_or(1 << 16);
    if !size.is_power_of_two() || !(512..=2 << 20).contains(&size) {
        return Err(invalid(
            "Cluster size must be a power of two between 512 and 2048k",
        ));
    }
    if extended_l2 && size < 1 << 14 {
        return Err(invalid(
            "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes",
        ));
    }
    Ok(size.trailing_zeros())
}

fn refcount_order(options: &mut Options) -> Result<u32> {
    let bits = options.take_int("refcount-bits")?.unwrap_or(16);
    match u64::try_from(bits) {
        Ok(bits) if bits.is_power_of_two() && bits <= 64 => Ok(bits.trailing_zeros()),
        _ => Err(invalid(
            "Refcount width must be a power of two and may not exceed 64 bits",
        )),
    }
}

fn len_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// The image would need larger tables than the format allows.
pub(super) fn too_large() -> Error {
    invalid("Image size too large for the cluster size: the L1 table would be too large")
}

fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
