//! What nodes are: `query-named-block-nodes` and `query-block`.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::bitmap::{self, BITMAP_INFO};
use super::image_info::{IMAGE_INFO, file_name, image};
use crate::block::{IO_STATUS, Node, chain_of, edges};
use crate::monitor::reply::Reply;
use crate::object::tree::{self, PERIPHERAL};
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
        Member::optional(
            "dirty-bitmaps",
            ValueType::Array(&ValueType::Object(&BITMAP_INFO)),
        ),
    ],
);
const DETECT_ZEROES: EnumType =
    EnumType::new("BlockdevDetectZeroesOptions", &["off", "on", "unmap"]);

static CACHE_INFO: ObjectType = ObjectType::new(
    "BlockdevCacheInfo",
    &[
        Member::new("writeback", ValueType::Bool),
        Member::new("direct", ValueType::Bool),
        Member::new("no-flush", ValueType::Bool),
    ],
);

/// The newest node comes first, as in QEMU. `flat` leaves out the images behind an image, and does not count them. It runs on a thread of
/// its own, because the file system of an image may keep it waiting.
pub(super) fn named_nodes(mut arguments: Options, reply: Reply) {
    let flat = match arguments.take_bool("flat") {
        Ok(flat) => flat.unwrap_or(false),
        Err(error) => return reply.complete(Err(error)),
    };
    reply.by_thread("query-named-block-nodes", move || {
        let nodes = Node::list();
        let infos = nodes.iter().rev().map(|node| match flat {
            true => info(node, &[]),
            false => info(node, &chain_of(node)[1..]),
        });
        Ok(infos.collect())
    });
}

/// What is said about a node, with the images in `chain` behind it.
fn info(node: &Node, chain: &[Arc<Node>]) -> Value {
    let depth = u64::try_from(chain.len()).unwrap_or(u64::MAX);
    let unlimited = ["bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"];
    let mut members: Dict = vec![
        ("file".to_owned(), file_name(node).into()),
        ("node-name".to_owned(), node.name().into()),
        ("ro".to_owned(), node.is_read_only().into()),
        ("drv".to_owned(), node.driver().name().into()),
        ("active".to_owned(), true.into()),
        ("backing_file_depth".to_owned(), depth.into()),
        ("encrypted".to_owned(), false.into()),
        (
            "detect_zeroes".to_owned(),
            node.detect_zeroes().name().into(),
        ),
        (
            "write_threshold".to_owned(),
            node.write_threshold_offset().into(),
        ),
        ("image".to_owned(), image_with(node, chain)),
        ("cache".to_owned(), cache(node)),
    ];
    if let Some(backing) = node.backing() {
        members.push(("backing_file".to_owned(), file_name(&backing).into()));
    }
    if let Some(bitmaps) = bitmap::infos(node) {
        members.push(("dirty-bitmaps".to_owned(), bitmaps));
    }
    members.extend(unlimited.map(|name| (name.to_owned(), Value::Int(0))));
    Value::Dict(members)
}

fn image_with(node: &Node, chain: &[Arc<Node>]) -> Value {
    let mut members = image(node);
    if let [next, behind @ ..] = chain {
        let next = image_with(next, behind);
        members.push(("backing-image".to_owned(), next));
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
        Member::optional("io-status", ValueType::Enum(IO_STATUS)),
    ],
);

/// One entry for each device that uses a node. On a thread as well.
pub(super) fn devices(_: Options, reply: Reply) {
    reply.by_thread("query-block", || {
        let nodes = Node::list();
        let edges = edges();
        let of_devices = edges.iter().filter(|edge| edge.parent.kind() == "device");
        let entries = of_devices.filter_map(|edge| {
            let node = nodes.iter().find(|node| node.id() == edge.child)?;
            Some(device(edge.parent.name(), node))
        });
        Ok(entries.collect())
    });
}

fn device(id: &str, node: &Arc<Node>) -> Value {
    let mut members: Dict = vec![
        ("device".to_owned(), "".into()),
        ("qdev".to_owned(), id.into()),
        ("type".to_owned(), "unknown".into()),
        ("removable".to_owned(), false.into()),
        ("locked".to_owned(), false.into()),
        ("inserted".to_owned(), info(node, &chain_of(node)[1..])),
    ];
    members.extend(io_status(id).map(|status| ("io-status".to_owned(), status)));
    Value::Dict(members)
}

/// Whether requests of the device wait, if its guest may be stopped for errors.
fn io_status(id: &str) -> Option<Value> {
    let path = format!("{PERIPHERAL}/{id}");
    let may_stop = ["rerror", "werror"].into_iter().any(|name| {
        let rule = tree::get(&path, name).ok();
        rule.is_some_and(|rule| rule == "enospc".into() || rule == "stop".into())
    });
    may_stop.then(|| tree::get(&path, "io-status").ok())?
}
