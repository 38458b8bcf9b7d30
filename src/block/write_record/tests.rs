//! A node's writes are in its bitmaps, whatever it is made of and whatever happens to it.
#![forbid(unsafe_code)]
#![allow(clippy::single_range_in_vec_init)] // lists of runs

use std::ops::Range;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::block::drain;
use crate::block::options::blockdev;
use crate::block::request::Op;
use crate::block::test_file::TestFile;
use crate::block::test_rig::Rig;
use crate::object::options::parse_dotted;

const UNIT: u64 = 4096;

fn open(text: &str) -> Arc<Node> {
    blockdev(parse_dotted("driver", text).unwrap()).unwrap()
}

/// Drains the node of the rig.
fn drained(rig: &Rig) -> DrainedNodes {
    drained_with(rig, rig)
}

/// Drains the node of the rig, which another rig uses as well.
fn drained_with(rig: &Rig, other: &Rig) -> DrainedNodes {
    let mut draining = drain([&rig.edge.node()]);
    let mut context = Context::from_waker(Waker::noop());
    let mut drained = None;
    rig.wait(|| {
        other.iterate(1);
        let Poll::Ready(nodes) = Pin::new(&mut draining).poll(&mut context) else {
            return false;
        };
        drained = Some(nodes);
        true
    });
    drained.unwrap()
}

fn record(rig: &Rig) -> WriteRecord {
    let drained = drained(rig);
    WriteRecord::begin(&rig.edge.node(), &drained, UNIT).unwrap()
}

/// Carries out one operation on these units.
fn run(rig: &Rig, op: Op, units: Range<u64>) {
    let length = (units.end - units.start) * UNIT;
    let memory = Mutex::new(vec![7; usize::try_from(length).unwrap()]);
    let before = rig.finished().len();
    rig.submit([units.start], |channel, tag| {
        let mut request = channel.request(op, tag * UNIT, tag);
        match op {
            Op::Read | Op::Write => request.set_memory(&mut memory.lock().unwrap()),
            Op::Flush => {}
            _ => request.set_length(length),
        }
        request
    });
    rig.wait(|| rig.finished().len() == before + 1);
}

fn units(record: &WriteRecord) -> Vec<Range<u64>> {
    let runs = record.runs();
    runs.map(|run| run.start / UNIT..run.end / UNIT).collect()
}

#[test]
fn what_changes_the_node_is_recorded_on_every_store() {
    for (store, rig) in Rig::all() {
        run(&rig, Op::Write, 0..2);
        let record = record(&rig);
        for op in [Op::Read, Op::BlockStatus, Op::Flush] {
            run(&rig, op, 0..1);
        }
        assert_eq!(units(&record), [], "{store}");
        run(&rig, Op::Write, 3..5);
        run(&rig, Op::WriteZeroes { unmap: true }, 7..8);
        run(&rig, Op::Discard, 20..30);
        assert_eq!(units(&record), [3..5, 7..8, 20..30], "{store}");
        assert_eq!(record.count(), 13 * UNIT, "{store}");
    }
}

#[test]
fn a_write_that_failed_is_recorded() {
    let text = "blkdebug,node-name=failing,inject-error.0.event=none,inject-error.0.iotype=write,\
                image.driver=null-co";
    let rig = Rig::over(&open(text));
    let record = record(&rig);
    run(&rig, Op::Write, 3..4);
    assert_eq!(rig.finished(), [(3, -libc::EIO)]);
    assert_eq!(units(&record), [3..4]);
}

/// As when an image and the file below it both have bitmaps.
#[test]
fn each_node_records_what_reaches_it() {
    let text = "raw,node-name=above,offset=8192,size=65536,file.driver=null-co,file.size=1048576";
    let rig = Rig::over(&open(text));
    let below = Rig::over(&rig.edge.node().children()[0]);
    let above = record(&rig);
    let drained = drained_with(&below, &rig);
    let below_record = WriteRecord::begin(&below.edge.node(), &drained, UNIT).unwrap();
    drop(drained);
    run(&rig, Op::Write, 1..2);
    assert_eq!(units(&above), [1..2]);
    assert_eq!(units(&below_record), [3..4]);
}

#[test]
fn a_node_without_a_bitmap_has_no_part_for_bitmaps_in_its_way() {
    let rig = Rig::over(&open("null-co,node-name=plain"));
    let is_marking = || rig.with(|channel| channel.is_marking());
    assert!(!is_marking());
    let record = record(&rig);
    rig.iterate(3);
    assert!(is_marking());
    drop(record);
    drop(drained(&rig));
    rig.iterate(3);
    assert!(!is_marking());
}

#[test]
fn a_record_that_has_ended_costs_no_more_and_the_others_go_on() {
    let rig = Rig::over(&open("null-co,node-name=two-records"));
    let (first, second) = (record(&rig), record(&rig));
    run(&rig, Op::Write, 1..2);
    let bitmap = Arc::clone(&first.bitmap);
    drop(first);
    run(&rig, Op::Write, 2..3);
    assert!(bitmap.bits().runs().eq([UNIT..2 * UNIT]));
    assert_eq!(units(&second), [1..3]);
}

#[test]
fn a_record_of_a_node_that_is_not_drained_is_refused() {
    let node = open("null-co,node-name=not-drained");
    let other = open("null-co,node-name=drained-other");
    let rig = Rig::over(&other);
    let error = WriteRecord::begin(&node, &drained(&rig), UNIT).unwrap_err();
    assert_eq!(error.to_string(), "node 'not-drained' is not drained");
}

#[test]
fn a_record_follows_the_length_of_its_node() {
    let file = TestFile::new(b"", 1 << 20);
    let text = format!("file,node-name=growing,filename={}", file.path());
    let rig = Rig::over(&open(&text));
    let record = record(&rig);
    let node = rig.edge.node();
    node.set_length(1 << 22).unwrap();
    assert_eq!(record.length(), 1 << 22);
    run(&rig, Op::Write, 1000..1001);
    assert_eq!(units(&record), [1000..1001]);
    node.set_length(1 << 20).unwrap();
    assert_eq!((record.length(), units(&record)), (1 << 20, vec![]));
}
