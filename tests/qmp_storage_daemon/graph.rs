//! `x-debug-query-block-graph`: nodes and edges with their permissions, by the names of the nodes.
//!
//! Differences that are known and allowed:
//!
//! * an export's user of a node has a name here, the export's, and none in QEMU
//! * a vmdk image reads all its files, and QEMU says of those that are extents only what others may not do
//! * QEMU passes the need for `write-unchanged` on to the file of an image, and lets others write a data file; a part of a node
//!   (`offset`, `size`) does not keep others from resizing the node here
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use qcontext::object::Value;

use super::both::{Both, plain, with};

const NODES: [&str; 6] = [
    r#""driver":"file","node-name":"f","filename":"a.img""#,
    r#""driver":"raw","node-name":"r","file":"f""#,
    r#""driver":"throttle","node-name":"t","throttle-group":"group","file":"r""#,
    r#""driver":"blkdebug","node-name":"d","image":"t","unshare-child-perms":["resize"]"#,
    r#""driver":"raw","node-name":"ro","read-only":true,"file":{"driver":"file","node-name":"g","filename":"b.img"}"#,
    r#""driver":"null-co","node-name":"n""#,
];

const EXPORTS: [(&str, &str, &str); 3] = [
    ("e0", "d", r#","writable":true"#),
    ("e1", "ro", ""),
    ("e2", "n", r#","writable":true"#),
];

/// An edge: kind and name of the parent, the child, the role, the permissions, those that are shared.
type Edge = (String, String, String, String, String, String);

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    match value.member(name) {
        Some(Value::List(items)) => items,
        other => panic!("{other:?}"),
    }
}

fn text(value: &Value, name: &str) -> String {
    value
        .member(name)
        .and_then(Value::as_str)
        .unwrap()
        .to_owned()
}

/// The edges of an answer.
fn edges(answer: &Value) -> BTreeSet<Edge> {
    let graph = answer.member("return").unwrap();
    let node = |number: &Value| {
        let mut nodes = list(graph, "nodes").iter();
        let found = nodes
            .find(|node| node.member("id") == Some(number))
            .unwrap();
        let kind = text(found, "type");
        let name = match kind.as_str() {
            "block-driver" => text(found, "name"),
            _ => String::new(),
        };
        (kind, name)
    };
    let names = |edge: &Value, member: &str| {
        let names = list(edge, member).iter();
        let names: BTreeSet<&str> = names.map(|name| name.as_str().unwrap()).collect();
        names.into_iter().collect::<Vec<_>>().join(",")
    };
    let edges = list(graph, "edges").iter();
    edges
        .map(|edge| {
            let (kind, parent) = node(edge.member("parent").unwrap());
            let (_, child) = node(edge.member("child").unwrap());
            let role = text(edge, "name");
            (
                kind,
                parent,
                child,
                role,
                names(edge, "perm"),
                names(edge, "shared-perm"),
            )
        })
        .collect()
}

#[test]
fn edges_have_the_permissions_of_the_storage_daemons() {
    let Some(mut both) = Both::start(&["--object", "throttle-group,id=group"]) else {
        return;
    };
    for node in NODES {
        both.alike(&with("blockdev-add", node));
    }
    let request = plain("x-debug-query-block-graph");
    let before = [both.theirs.ask(&request), both.ours.ask(&request)];
    assert_eq!(edges(&before[1]), edges(&before[0]));
    for (id, node, more) in EXPORTS {
        let arguments = format!(
            r#""type":"vhost-user-blk","id":"{id}","node-name":"{node}","addr":{{"type":"unix","path":"{id}.sock"}}{more}"#
        );
        both.alike(&with("block-export-add", &arguments));
    }
    let after = [both.theirs.ask(&request), both.ours.ask(&request)];
    assert_eq!(edges(&after[1]), edges(&after[0]));
    assert_eq!(
        edges(&after[0]).len(),
        edges(&before[0]).len() + EXPORTS.len()
    );
}
