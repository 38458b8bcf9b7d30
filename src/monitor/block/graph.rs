//! The block graph for debugging: `x-debug-query-block-graph`.
#![forbid(unsafe_code)]

use crate::Result;
use crate::block::{EdgeInfo, Node, Permissions, edges};
use crate::object::{Options, Value};
use crate::schema::{CommandType, EnumType, Member, NOTHING, ObjectType, ValueType};

pub(super) static QUERY_BLOCK_GRAPH: CommandType = CommandType::returning(
    "x-debug-query-block-graph",
    &NOTHING,
    ValueType::Object(&GRAPH),
);

static GRAPH: ObjectType = ObjectType::new(
    "XDbgBlockGraph",
    &[
        Member::new("nodes", ValueType::Array(&ValueType::Object(&GRAPH_NODE))),
        Member::new("edges", ValueType::Array(&ValueType::Object(&GRAPH_EDGE))),
    ],
);

const NODE_TYPE: EnumType = EnumType::new(
    "XDbgBlockGraphNodeType",
    &["block-backend", "block-job", "block-driver"],
);
static GRAPH_NODE: ObjectType = ObjectType::new(
    "XDbgBlockGraphNode",
    &[
        Member::new("id", ValueType::Uint(64)),
        Member::new("type", ValueType::Enum(NODE_TYPE)),
        Member::new("name", ValueType::Str),
    ],
);

const PERMISSION: EnumType = EnumType::new(
    "BlockPermission",
    &["consistent-read", "write", "write-unchanged", "resize"],
);
static GRAPH_EDGE: ObjectType = ObjectType::new(
    "XDbgBlockGraphEdge",
    &[
        Member::new("parent", ValueType::Uint(64)),
        Member::new("child", ValueType::Uint(64)),
        Member::new("name", ValueType::Str),
        Member::new("perm", ValueType::Array(&ValueType::Enum(PERMISSION))),
        Member::new(
            "shared-perm",
            ValueType::Array(&ValueType::Enum(PERMISSION)),
        ),
    ],
);

/// A parent outside of the graph is a node of the answer, too. Its number is that of its edge.
pub(super) fn block_graph(_: Options) -> Result<Value> {
    let edges = edges();
    let nodes = Node::list();
    let drivers = nodes
        .iter()
        .map(|node| entry(node.id().number(), "block-driver", node.name()));
    let outside = edges.iter().filter(|edge| edge.parent.node_id().is_none());
    let users = outside.map(|edge| match edge.parent.kind() {
        "job" => entry(edge.number, "block-job", edge.parent.name()),
        _ => entry(edge.number, "block-backend", edge.parent.name()),
    });
    Ok(Value::dict([
        ("nodes", drivers.chain(users).collect()),
        ("edges", edges.iter().map(describe).collect()),
    ]))
}

fn entry(id: u64, kind: &str, name: &str) -> Value {
    Value::dict([
        ("id", id.into()),
        ("type", kind.into()),
        ("name", name.into()),
    ])
}

fn describe(edge: &EdgeInfo) -> Value {
    let parent = edge
        .parent
        .node_id()
        .map_or(edge.number, |node| node.number());
    Value::dict([
        ("parent", parent.into()),
        ("child", edge.child.number().into()),
        ("name", edge.parent.role().into()),
        ("perm", permissions(edge.access.needs)),
        ("shared-perm", permissions(edge.access.shares)),
    ])
}

fn permissions(set: Permissions) -> Value {
    let names = set.names().map(|name| name.replace(' ', "-"));
    names.map(Value::from).collect()
}
