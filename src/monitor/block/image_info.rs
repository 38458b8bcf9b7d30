//! What queries say about an image: QEMU's `ImageInfo`.
//!
//! Members that are left out, which QEMU's description allows: `snapshots`, `compressed`, `encrypted`, and of a qcow2 image `bitmaps`
//! and `encrypt`.
#![forbid(unsafe_code)]

use crate::block::{ImageInfo, ImageSpecific, Node, Qcow2Info, VmdkExtentInfo, VmdkInfo};
use crate::object::{Dict, Value};
use crate::schema::{Case, Member, NOTHING, ObjectType, ValueType, Variants};

pub(super) static IMAGE_INFO: ObjectType = ObjectType::new(
    "ImageInfo",
    &[
        Member::new("filename", ValueType::Str),
        Member::new("format", ValueType::Str),
        Member::optional("dirty-flag", ValueType::Bool),
        Member::optional("actual-size", ValueType::Int),
        Member::new("virtual-size", ValueType::Int),
        Member::optional("cluster-size", ValueType::Int),
        Member::optional("backing-filename", ValueType::Str),
        Member::optional("full-backing-filename", ValueType::Str),
        Member::optional("backing-filename-format", ValueType::Str),
        Member::optional("format-specific", ValueType::Object(&SPECIFIC)),
        Member::optional("backing-image", ValueType::Object(&IMAGE_INFO)),
    ],
);

static SPECIFIC: ObjectType = ObjectType::tagged(
    "ImageInfoSpecific",
    &[],
    Variants {
        tag: "type",
        tag_type: "ImageInfoSpecificKind",
        cases: || {
            let case = |tag, of| Case::new(tag, &[Member::new("data", ValueType::Object(of))]);
            vec![
                case("file", &NOTHING),
                case("qcow2", &QCOW2),
                case("vmdk", &VMDK),
            ]
        },
    },
);

static QCOW2: ObjectType = ObjectType::new(
    "ImageInfoSpecificQCow2",
    &[
        Member::new("compat", ValueType::Str),
        Member::optional("data-file", ValueType::Str),
        Member::optional("data-file-raw", ValueType::Bool),
        Member::optional("extended-l2", ValueType::Bool),
        Member::optional("lazy-refcounts", ValueType::Bool),
        Member::optional("corrupt", ValueType::Bool),
        Member::new("refcount-bits", ValueType::Int),
        Member::new("compression-type", ValueType::Str),
    ],
);

static VMDK: ObjectType = ObjectType::new(
    "ImageInfoSpecificVmdk",
    &[
        Member::new("create-type", ValueType::Str),
        Member::new("cid", ValueType::Int),
        Member::new("parent-cid", ValueType::Int),
        Member::new("extents", ValueType::Array(&ValueType::Object(&EXTENT))),
    ],
);

static EXTENT: ObjectType = ObjectType::new(
    "VmdkExtentInfo",
    &[
        Member::new("filename", ValueType::Str),
        Member::new("format", ValueType::Str),
        Member::new("virtual-size", ValueType::Int),
        Member::optional("cluster-size", ValueType::Int),
        Member::optional("compressed", ValueType::Bool),
    ],
);

/// A node's image, without those behind it.
pub(super) fn image(node: &Node) -> Dict {
    let info = node.image_info();
    let mut members = Members(Vec::new());
    members.add("virtual-size", node.length());
    members.add("filename", file_name(node));
    members.add("format", node.driver().name());
    members.add_some("actual-size", node.allocated());
    members.add_some("dirty-flag", info.knows_dirty.then_some(false));
    members.add_some("cluster-size", info.cluster_size);
    let ImageInfo {
        backing, specific, ..
    } = info;
    if let Some(backing) = backing {
        members.add("backing-filename", backing.file_name);
        members.add("full-backing-filename", backing.full_file_name);
        members.add_some("backing-filename-format", backing.format);
    }
    members.add_some("format-specific", specific.as_ref().map(describe));
    members.0
}

/// The name of a node's file, or one for a node without a file.
pub(super) fn file_name(node: &Node) -> String {
    node.filename()
        .unwrap_or_else(|| format!("{}://", node.driver().name()))
}

/// The members of an answer.
struct Members(Dict);

impl Members {
    fn add(&mut self, name: &str, value: impl Into<Value>) {
        self.0.push((name.to_owned(), value.into()));
    }

    fn add_some(&mut self, name: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }
}

fn describe(specific: &ImageSpecific) -> Value {
    let (kind, data) = match specific {
        ImageSpecific::File => ("file", Vec::new()),
        ImageSpecific::Qcow2(info) => ("qcow2", qcow2(info)),
        ImageSpecific::Vmdk(info) => ("vmdk", vmdk(info)),
    };
    Value::dict([("type", kind.into()), ("data", Value::Dict(data))])
}

/// An image that is corrupt, or has extended L2 entries or another compression, is not opened.
fn qcow2(info: &Qcow2Info) -> Dict {
    let mut members = Members(Vec::new());
    let is_new = info.version >= 3;
    members.add("compat", if is_new { "1.1" } else { "0.10" });
    members.add("compression-type", "zlib");
    members.add("refcount-bits", u64::from(info.refcount_bits));
    if is_new {
        members.add("lazy-refcounts", info.lazy_refcounts);
        members.add("corrupt", false);
        members.add("extended-l2", false);
    }
    if let Some((name, is_raw)) = &info.data_file {
        members.add("data-file", name.as_str());
        members.add("data-file-raw", *is_raw);
    }
    members.0
}

fn vmdk(info: &VmdkInfo) -> Dict {
    let mut members = Members(Vec::new());
    members.add("create-type", info.create_type.as_str());
    members.add("cid", u64::from(info.cid));
    members.add("parent-cid", u64::from(info.parent_cid));
    let extents: Value = info.extents.iter().map(extent).collect();
    members.add("extents", extents);
    members.0
}

fn extent(extent: &VmdkExtentInfo) -> Value {
    let mut members = Members(Vec::new());
    members.add("filename", extent.file_name.as_str());
    members.add("format", extent.format.as_str());
    members.add("virtual-size", extent.length);
    members.add_some("cluster-size", extent.cluster_size);
    members.add_some("compressed", extent.is_compressed.then_some(true));
    Value::Dict(members.0)
}
