//! What nodes are: `query-named-block-nodes` and `query-block`.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::Result;
use crate::block::{Node, edges};
use crate::object::{Dict, Options, Value};
use crate::schema::{CommandType, EnumType, Member, NOTHING, ObjectType, ValueType};

pub(super) static QUERY_NAMED_BLOCK_NODES: CommandType = CommandType::returning(
    "query-named-block-nodes",
    &ObjectType::new(
        "q_obj_query-named-block-nodes-arg",
        &[Member::optional("flat", ValueType::Bool)],
    ),
    ValueType::Array(&ValueType::Object(&BLOCK_DEVICE_INFO)),
);

static BLOCK_DEVICE_INFO: ObjectType = ObjectType::new(
    "BlockDeviceInfo",
    &[
        Member::new("file", ValueType::Str),
        Member::optional("node-name", ValueType::Str),
        Member::new("ro", ValueType::Bool),
        Member::new("drv", ValueType::Str),
        Member::optional("active", ValueType::Bool),
        Member::optional("backing_file", ValueType::Str),
        Member::new("backing_file_depth", ValueType::Int),
        Member::new("encrypted", ValueType::Bool),
        Member::new("detect_zeroes", ValueType::Enum(DETECT_ZEROES)),
        Member::new("bps", ValueType::Int),
        Member::new("bps_rd", ValueType::Int),
        Member::new("bps_wr", ValueType::Int),
        Member::new("iops", ValueType::Int),
        Member::new("iops_rd", ValueType::Int),
        Member::new("iops_wr", ValueType::Int),
        Member::new("image", ValueType::Object(&IMAGE_INFO)),
        Member::new("cache", ValueType::Object(&CACHE_INFO)),
        Member::new("write_threshold", ValueType::Uint(64)),
    ],
);
const DETECT_ZEROES: EnumType =
    EnumType::new("BlockdevDetectZeroesOptions", &["off", "on", "unmap"]);

static IMAGE_INFO: ObjectType = ObjectType::new(
    "ImageInfo",
    &[
        Member::new("filename", ValueType::Str),
        Member::new("format", ValueType::Str),
        Member::optional("dirty-flag", ValueType::Bool),
        Member::optional("actual-size", ValueType::Int),
        Member::new("virtual-size", ValueType::Int),
    ],
);

static CACHE_INFO: ObjectType = ObjectType::new(
    "BlockdevCacheInfo",
    &[
        Member::new("writeback", ValueType::Bool),
        Member::new("direct", ValueType::Bool),
        Member::new("no-flush", ValueType::Bool),
    ],
);

/// The newest node comes first, as in QEMU. `flat` changes nothing: an image is shown without those behind it.
pub(super) fn named_nodes(_: Options) -> Result<Value> {
    let nodes = Node::list();
    Ok(nodes.iter().rev().map(|node| info(node)).collect())
}

fn info(node: &Node) -> Value {
    let filename = file_name(node);
    let chain = backing_chain(node);
    let unlimited = ["bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"];
    let mut members: Dict = vec![
        ("file".to_owned(), filename.as_str().into()),
        ("node-name".to_owned(), node.name().into()),
        ("ro".to_owned(), node.is_read_only().into()),
        ("drv".to_owned(), node.driver().name().into()),
        ("active".to_owned(), true.into()),
        ("backing_file_depth".to_owned(), (chain.len() as u64).into()),
        ("encrypted".to_owned(), false.into()),
        (
            "detect_zeroes".to_owned(),
            node.detect_zeroes().name().into(),
        ),
        (
            "write_threshold".to_owned(),
            node.write_threshold_offset().into(),
        ),
        ("image".to_owned(), image(node, filename)),
        ("cache".to_owned(), cache(node)),
    ];
    if let Some(backing) = chain.first() {
        members.push(("backing_file".to_owned(), file_name(backing).into()));
    }
    members.extend(unlimited.map(|name| (name.to_owned(), Value::Int(0))));
    Value::Dict(members)
}

fn file_name(node: &Node) -> String {
    node.filename()
        .unwrap_or_else(|| format!("{}://", node.driver().name()))
}

/// The images behind an image, the next one first.
fn backing_chain(node: &Node) -> Vec<Arc<Node>> {
    let (nodes, edges) = (Node::list(), edges());
    let behind = |name: &str| {
        let edge = edges.iter().find(|edge| {
            edge.parent.kind() == "node"
                && edge.parent.name() == name
                && edge.parent.role() == "backing"
        })?;
        nodes.iter().find(|one| one.id() == edge.child).cloned()
    };
    std::iter::successors(behind(node.name()), |last| behind(last.name())).collect()
}

fn image(node: &Node, filename: String) -> Value {
    let mut members: Dict = vec![
        ("virtual-size".to_owned(), node.length().into()),
        ("filename".to_owned(), filename.into()),
        ("format".to_owned(), node.driver().name().into()),
        ("dirty-flag".to_owned(), false.into()),
    ];
    if let Some(size) = node.allocated() {
        members.push(("actual-size".to_owned(), size.into()));
    }
    Value::Dict(members)
}

fn cache(node: &Node) -> Value {
    Value::dict([
        ("writeback", true.into()),
        ("direct", node.is_direct().into()),
        ("no-flush", false.into()),
    ])
}

pub(super) static QUERY_BLOCK: CommandType = CommandType::returning(
    "query-block",
    &NOTHING,
    ValueType::Array(&ValueType::Object(&BLOCK_INFO)),
);

static BLOCK_INFO: ObjectType = ObjectType::new(
    "BlockInfo",
    &[
        Member::new("device", ValueType::Str),
        Member::optional("qdev", ValueType::Str),
        Member::new("type", ValueType::Str),
        Member::new("removable", ValueType::Bool),
        Member::new("locked", ValueType::Bool),
        Member::optional("inserted", ValueType::Object(&BLOCK_DEVICE_INFO)),
    ],
);

/// One entry for each device that uses a node.
pub(super) fn devices(_: Options) -> Result<Value> {
    let nodes = Node::list();
    let edges = edges();
    let of_devices = edges.iter().filter(|edge| edge.parent.kind() == "device");
    let entries = of_devices.filter_map(|edge| {
        let node = nodes.iter().find(|node| node.id() == edge.child)?;
        Some(device(edge.parent.name(), node))
    });
    Ok(entries.collect())
}

fn device(id: &str, node: &Node) -> Value {
    Value::dict([
        ("device", "".into()),
        ("qdev", id.into()),
        ("type", "unknown".into()),
        ("removable", false.into()),
        ("locked", false.into()),
        ("inserted", info(node)),
    ])
}
