//! What was done: `query-blockstats`.
//!
//! Requests and bytes of devices are counted, times are not. As in QEMU, a node by itself counts nothing; its numbers are 0. `driver-specific`
//! is left out.
#![forbid(unsafe_code)]

use crate::Result;
use crate::block::{Node, Parent, edges, next_in_chain};
use crate::object::tree::{self, PERIPHERAL};
use crate::object::{Dict, Options, Value};
use crate::schema::{CommandType, Member, ObjectType, ValueType};

pub(super) static QUERY_BLOCKSTATS: CommandType = CommandType::returning(
    "query-blockstats",
    &ObjectType::new(
        "q_obj_query-blockstats-arg",
        &[Member::optional("query-nodes", ValueType::Bool)],
    ),
    ValueType::Array(&ValueType::Object(&BLOCK_STATS)),
);

static BLOCK_STATS: ObjectType = ObjectType::new(
    "BlockStats",
    &[
        Member::optional("device", ValueType::Str),
        Member::optional("qdev", ValueType::Str),
        Member::optional("node-name", ValueType::Str),
        Member::new("stats", ValueType::Object(&BLOCK_DEVICE_STATS)),
        Member::optional("parent", ValueType::Object(&BLOCK_STATS)),
        Member::optional("backing", ValueType::Object(&BLOCK_STATS)),
    ],
);

const fn counter(name: &'static str) -> Member {
    Member::new(name, ValueType::Int)
}

const COUNTERS: [Member; 32] = [
    counter("rd_bytes"),
    counter("wr_bytes"),
    counter("zone_append_bytes"),
    counter("unmap_bytes"),
    counter("rd_operations"),
    counter("wr_operations"),
    counter("zone_append_operations"),
    counter("flush_operations"),
    counter("unmap_operations"),
    counter("rd_total_time_ns"),
    counter("wr_total_time_ns"),
    counter("zone_append_total_time_ns"),
    counter("flush_total_time_ns"),
    counter("unmap_total_time_ns"),
    counter("wr_highest_offset"),
    counter("rd_merged"),
    counter("wr_merged"),
    counter("zone_append_merged"),
    counter("unmap_merged"),
    counter("failed_rd_operations"),
    counter("failed_wr_operations"),
    counter("failed_zone_append_operations"),
    counter("failed_flush_operations"),
    counter("failed_unmap_operations"),
    counter("invalid_rd_operations"),
    counter("invalid_wr_operations"),
    counter("invalid_zone_append_operations"),
    counter("invalid_flush_operations"),
    counter("invalid_unmap_operations"),
    Member::new("account_invalid", ValueType::Bool),
    Member::new("account_failed", ValueType::Bool),
    Member::new("timed_stats", ValueType::Array(&ValueType::Any)),
];

static BLOCK_DEVICE_STATS: ObjectType = ObjectType::new("BlockDeviceStats", &COUNTERS);

/// What is counted, and the property of a device that has the number.
const COUNTED: [(&str, &str); 5] = [
    ("rd_operations", "reads"),
    ("wr_operations", "writes"),
    ("flush_operations", "flushes"),
    ("rd_bytes", "read-bytes"),
    ("wr_bytes", "write-bytes"),
];

/// With `query-nodes`, one entry for each node; otherwise one for each device that uses a node.
pub(super) fn blockstats(mut arguments: Options) -> Result<Value> {
    let nodes = Node::list();
    if arguments.take_bool("query-nodes")?.unwrap_or(false) {
        return Ok(nodes.iter().map(|node| of_node(node)).collect());
    }
    let edges = edges();
    let of_devices = edges.iter().filter(|edge| edge.parent.kind() == "device");
    let entries = of_devices.filter_map(|edge| {
        let node = nodes.iter().find(|node| node.id() == edge.child)?;
        Some(of_device(&edge.parent, node))
    });
    Ok(entries.collect())
}

/// With what QEMU calls the parent: the node below that has the data.
fn of_node(node: &Node) -> Value {
    let mut members: Dict = vec![
        ("node-name".to_owned(), node.name().into()),
        ("stats".to_owned(), stats(|_| 0)),
    ];
    members.extend(below(node));
    Value::Dict(members)
}

fn below(node: &Node) -> Option<(String, Value)> {
    let child = node.data_child()?;
    Some(("parent".to_owned(), of_node(&child)))
}

/// The images behind a device's.
fn behind(node: &Node) -> Option<(String, Value)> {
    let next = next_in_chain(node)?;
    let Value::Dict(mut members) = of_node(&next) else {
        return None;
    };
    members.extend(behind(&next));
    Some(("backing".to_owned(), Value::Dict(members)))
}

fn of_device(device: &Parent, node: &Node) -> Value {
    let path = format!("{PERIPHERAL}/{}", device.name());
    let count = |property: &str| match tree::get(&path, property) {
        Ok(Value::Int(count)) => count,
        // The device has just gone.
        _ => 0,
    };
    let mut members: Dict = vec![
        ("device".to_owned(), "".into()),
        ("qdev".to_owned(), device.name().into()),
        ("node-name".to_owned(), node.name().into()),
        ("stats".to_owned(), stats(count)),
    ];
    members.extend(below(node));
    members.extend(behind(node));
    Value::Dict(members)
}

/// All counters, those that are counted from the properties that `count` reads.
fn stats(count: impl Fn(&str) -> i64) -> Value {
    let value = |member: &Member| match member.value {
        ValueType::Bool => Value::Bool(false),
        ValueType::Array(_) => Value::List(Vec::new()),
        _ => {
            let counted = COUNTED.iter().find(|(name, _)| *name == member.name);
            Value::Int(counted.map_or(0, |(_, property)| count(property)))
        }
    };
    let members: Dict = COUNTERS
        .iter()
        .map(|member| (member.name.to_owned(), value(member)))
        .collect();
    Value::Dict(members)
}
