//! Permissions between parents of one node and through the nodes between; who hears of a new length.
#![forbid(unsafe_code)]

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::block::common::CommonOptions;
use crate::block::drivers::{null, raw};
use crate::object::options;

const READ: Permissions = Permissions::CONSISTENT_READ;
const WRITE: Permissions = Permissions::WRITE;
const RESIZE: Permissions = Permissions::RESIZE;

/// What a disk of a guest does.
const DISK: Access = Access {
    needs: READ.and(WRITE),
    shares: Permissions::ALL.without(WRITE),
};

fn null_node(name: &str, text: &str) -> Arc<Node> {
    let mut keys = options::parse(None, text).unwrap();
    let common = CommonOptions::take(&mut keys).unwrap();
    Node::named(name.into(), common, |node| null::open(&mut keys, node)).unwrap()
}

fn raw_node(name: &str, child: &Arc<Node>) -> Arc<Node> {
    let common = CommonOptions::default();
    Node::named(name.into(), common, |node| raw::over(child, node)).unwrap()
}

fn device(name: &str) -> Parent {
    Parent::new("device", name)
}

#[test]
fn a_parent_is_refused_what_another_does_not_share() {
    let all = Permissions::ALL;
    // (first, second, whether they go together)
    let cases = [
        ((READ, all), (READ, all), true),
        ((READ, READ), (READ, READ), true),
        ((READ.and(WRITE), READ), (READ, all), true),
        ((READ.and(WRITE), READ), (READ, READ), false),
        ((READ.and(WRITE), READ), (WRITE, all), false),
        ((READ, all.without(RESIZE)), (RESIZE, all), false),
        ((READ, all.without(RESIZE)), (WRITE, all), true),
        ((Permissions::NONE, Permissions::NONE), (READ, all), false),
    ];
    for (first, second, together) in cases {
        let access = |(needs, shares)| Access { needs, shares };
        for (one, other) in [(first, second), (second, first)] {
            let node = null_node("pairs", "size=1M");
            let _one = node.attach(device("one"), access(one)).unwrap();
            let refused = node.attach(device("other"), access(other)).err();
            assert_eq!(refused.is_none(), together, "{one:?} {other:?}");
            assert!(refused.is_none_or(|error| error.kind() == ErrorKind::Busy));
        }
    }
}

#[test]
fn what_a_nodes_parents_need_holds_for_the_node_below() {
    let prot = null_node("below-prot", "size=1M");
    let disk = raw_node("below-disk", &prot);
    let edge = disk.attach(device("disk0"), DISK).unwrap();
    let error = prot.attach(device("disk1"), DISK).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Permission conflict on node 'below-prot': permissions 'write' are both required by device 'disk1' (uses node 'below-prot' as 'root' child) and unshared by node 'below-disk' (uses node 'below-prot' as 'file' child)."
    );
    drop(edge);
    let direct = prot.attach(device("disk1"), DISK).unwrap();
    let through = disk.attach(device("disk0"), DISK).unwrap_err();
    assert_eq!(
        through.to_string(),
        "Permission conflict on node 'below-prot': permissions 'write' are both required by device 'disk1' (uses node 'below-prot' as 'root' child) and unshared by node 'below-disk' (uses node 'below-prot' as 'file' child)."
    );
    drop(direct);
    assert!(disk.attach(device("disk0"), DISK).is_ok());
}

#[test]
fn a_refused_parent_leaves_nothing_behind() {
    let prot = null_node("left-prot", "size=1M");
    let disk = raw_node("left-disk", &prot);
    let first = prot.attach(device("disk0"), DISK).unwrap();
    assert!(disk.attach(device("disk1"), DISK).is_err());
    assert!(disk.parents().is_empty());
    drop(first);
    assert!(prot.attach(device("disk2"), DISK).is_ok());
}

#[test]
fn a_node_knows_its_parents_until_they_go() {
    let prot = null_node("known-prot", "size=1M");
    let disk = raw_node("known-disk", &prot);
    let names = |node: &Node| -> Vec<_> { node.parents().iter().map(Parent::to_string).collect() };
    let edge = disk.attach(device("disk0"), DISK).unwrap();
    assert_eq!(names(&disk), ["device 'disk0'"]);
    assert_eq!(names(&prot), ["node 'known-disk'"]);
    drop((edge, disk));
    assert!(names(&prot).is_empty());
}

#[test]
fn a_read_only_node_is_not_written() {
    let node = null_node("read-only", "size=1M,read-only=on");
    let error = node.attach(device("disk0"), DISK).unwrap_err();
    assert_eq!(error.to_string(), "Block node is read-only");
    let reader = Access {
        needs: READ,
        ..DISK
    };
    let _first = node.attach(device("disk0"), reader).unwrap();
    assert!(node.attach(device("disk1"), reader).is_ok());
}

/// Counts how often a parent hears of a new length.
fn count_resizes(edge: &Edge) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    edge.on_resize(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    count
}

#[test]
fn everyone_above_hears_of_a_new_length() {
    let prot = null_node("length-prot", "size=1M");
    let disk = raw_node("length-disk", &prot);
    let edge = disk.attach(device("disk0"), DISK).unwrap();
    let count = count_resizes(&edge);
    prot.set_length(2 << 20).unwrap();
    assert_eq!((disk.length(), count.load(Ordering::Relaxed)), (2 << 20, 1));
    disk.set_length(1 << 20).unwrap();
    assert_eq!((prot.length(), count.load(Ordering::Relaxed)), (1 << 20, 2));
    disk.set_length(1 << 20).unwrap();
    disk.refresh_length().unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 2, "nothing changed");
}

#[test]
fn a_length_is_kept_for_a_parent_that_relies_on_it() {
    let prot = null_node("keeps-prot", "size=1M");
    let disk = raw_node("keeps-disk", &prot);
    let rely = Access {
        needs: READ,
        shares: Permissions::ALL.without(RESIZE),
    };
    let edge = disk.attach(Parent::new("job", "copy"), rely).unwrap();
    let users = [
        (&prot, "node 'keeps-disk'", "file"),
        (&disk, "job 'copy'", "root"),
    ];
    for (node, parent, role) in users {
        let error = node.set_length(2 << 20).unwrap_err();
        let name = node.name();
        let expected = format!(
            "Permission conflict on node '{name}': permissions 'resize' are both required by an unnamed block device \
             (uses node '{name}' as 'root' child) and unshared by {parent} (uses node '{name}' as '{role}' child)."
        );
        assert_eq!(error.to_string(), expected);
    }
    drop(edge);
    disk.set_length(2 << 20).unwrap();
    for wrong in [1, 511, 513] {
        let error = disk.set_length(wrong).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
}
