//! What the drivers know of their images, besides what every node has.
//!
//! Used by the queries of the monitor. Names of fields are those of QEMU's `ImageInfo`.
#![forbid(unsafe_code)]

use std::path::Path;

use super::node::Node;

/// What a driver says about its image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageInfo {
    /// Whether the driver knows if the image was closed. All images that are open here were.
    pub knows_dirty: bool,
    /// The unit in which storage is allocated.
    pub cluster_size: Option<u64>,
    /// The backing file that the image names, whether or not it is used.
    pub backing: Option<NamedBacking>,
    /// What only images of this format have.
    pub specific: Option<ImageSpecific>,
}

/// A backing file, as an image names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedBacking {
    /// The name in the image.
    pub file_name: String,
    /// The same, relative to the program's folder and not to the image's.
    pub full_file_name: String,
    /// Its format, if the image records that.
    pub format: Option<String>,
}

/// What only images of one format have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageSpecific {
    /// Nothing, for a file.
    File,
    /// qcow2
    Qcow2(Qcow2Info),
    /// vmdk
    Vmdk(VmdkInfo),
}

/// What the header of a qcow2 image says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qcow2Info {
    /// 2 or 3.
    pub version: u32,
    /// Whether refcounts may be written later than references. Images of version 2 do not say.
    pub lazy_refcounts: bool,
    /// How long a refcount is.
    pub refcount_bits: u32,
    /// The name of the file with the guest's data, and whether that is a raw image by itself.
    pub data_file: Option<(String, bool)>,
}

/// What the descriptor of a vmdk image says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmdkInfo {
    /// Such as `monolithicSparse`.
    pub create_type: String,
    /// Changes with the image's content.
    pub cid: u32,
    /// That of the image below, or all ones.
    pub parent_cid: u32,
    /// The parts of the disk that are in files.
    pub extents: Vec<VmdkExtentInfo>,
}

/// A part of a vmdk image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmdkExtentInfo {
    /// Its file.
    pub file_name: String,
    /// As the descriptor names it. Empty if the extent has the descriptor in it.
    pub format: String,
    /// In bytes.
    pub length: u64,
    /// The size of a grain, if it has grains.
    pub cluster_size: Option<u64>,
    /// Whether its grains are compressed.
    pub is_compressed: bool,
}

impl ImageInfo {
    /// That of a node that passes on what the node below says of its clusters.
    pub(super) fn passed_on(below: &Node) -> ImageInfo {
        ImageInfo {
            backing: None,
            specific: None,
            ..below.image_info()
        }
    }

    /// That of an image with clusters.
    pub(super) fn with_clusters(size: u64) -> ImageInfo {
        ImageInfo {
            knows_dirty: true,
            cluster_size: Some(size),
            ..ImageInfo::default()
        }
    }
}

impl NamedBacking {
    /// The file `name` with this format, named by the image in `image`.
    pub(super) fn new(name: &str, format: Option<&str>, image: &Node) -> NamedBacking {
        // A URL names its file by itself.
        let has_protocol = name
            .split_once(':')
            .is_some_and(|(prefix, _)| !prefix.contains('/'));
        let path = image.filename().filter(|_| !has_protocol);
        let folder = path.as_deref().map(Path::new).and_then(Path::parent);
        let full = folder.map(|folder| folder.join(name).to_string_lossy().into_owned());
        NamedBacking {
            file_name: name.to_owned(),
            full_file_name: full.unwrap_or_else(|| name.to_owned()),
            format: format.map(str::to_owned),
        }
    }
}
