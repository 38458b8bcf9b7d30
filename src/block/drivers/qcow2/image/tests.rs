//! Requests that overlap: a discard frees no cluster into which a write is on its way.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex};

use crate::block::drivers::qcow2::tests::{Fields, Folder, image};
use crate::block::drivers::qcow2::{Qcow2Options, over};
use crate::block::node::Node;
use crate::block::options::blockdev;
use crate::block::range_lock::RangeLock;
use crate::block::request::Op;
use crate::block::test_filter::{HELD, holding};
use crate::block::test_rig::Rig;
use crate::block::test_waker::{WakeCount, is_ready};
use crate::object::options::parse_dotted;

const CLUSTER: usize = 4096;

/// Submits one request for a cluster, whose bytes are all the same.
fn submit(rig: &Rig, op: Op, cluster: usize, memory: &mut [u8], tag: u64) {
    let memory = Mutex::new(memory);
    rig.submit([tag], |channel, tag| {
        let mut request = channel.request(op, (cluster * CLUSTER) as u64, tag);
        match op {
            Op::Discard => request.set_length(CLUSTER as u64),
            _ => request.set_memory(&mut memory.lock().unwrap()),
        }
        request
    });
}

#[test]
fn discard_waits_for_a_write_to_the_same_cluster_whose_place_nothing_else_gets() {
    let folder = Folder::new();
    let path = folder.put("disk.qcow2", &image(&Fields::default()));
    let text = format!("node-name=held,driver=file,filename={}", path.display());
    let file = blockdev(parse_dotted("driver", &text).unwrap()).unwrap();
    let hold: Arc<RangeLock> = Arc::default();
    let held = holding(&file, &hold);
    let node = Node::child(None, Default::default(), |node| {
        over(&held, Qcow2Options::plain(), node)
    });
    let rig = Rig::over(&node.unwrap());
    let has = |tag| rig.finished().contains(&(tag, 0));
    let (mut old, mut late, mut other) = ([1; CLUSTER], [HELD; CLUSTER], [2; CLUSTER]);
    submit(&rig, Op::Write, 0, &mut old, 1);
    rig.wait(|| has(1));

    let wakes = Arc::<WakeCount>::default();
    let mut held_back = hold.ticket(0..1);
    assert!(is_ready(&mut held_back, &wakes));
    submit(&rig, Op::Write, 0, &mut late, 2);
    submit(&rig, Op::Discard, 0, &mut [], 3);
    rig.iterate(20);
    // A write elsewhere gets a cluster, but not that one.
    submit(&rig, Op::Write, 7, &mut other, 4);
    rig.wait(|| has(4));
    assert!(!has(2) && !has(3));
    drop(held_back);
    rig.wait(|| has(2) && has(3));

    let mut found = [[9; CLUSTER]; 2];
    submit(&rig, Op::Read, 0, &mut found[0], 5);
    submit(&rig, Op::Read, 7, &mut found[1], 6);
    rig.wait(|| has(5) && has(6));
    assert!(found == [[0; CLUSTER], other]);
}
