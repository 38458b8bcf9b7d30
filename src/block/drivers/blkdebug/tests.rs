//! Requests that fail or wait by rules.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::*;
use crate::ErrorKind;
use crate::block::options::blockdev;
use crate::block::test_rig::Rig;
use crate::object::options::parse_dotted;

const NULL: &str = "driver=blkdebug,image.driver=null-co,image.size=1M";

const READ: Op = Op::Read;
const WRITE: Op = Op::Write;
const ZERO: Op = Op::WriteZeroes { unmap: true };

fn rig(more: &str) -> Rig {
    Rig::new(("", &format!("{NULL},{more}"))).unwrap()
}

/// A request to a sector, and its result.
type Expected = (Op, u64, i32);

/// Submits one request and waits for its result.
fn run(rig: &Rig, op: Op, sector: u64) -> i32 {
    let tag = rig.finished().len();
    rig.submit([tag as u64], |channel, tag| {
        let mut request = channel.request(op, sector * 512, tag);
        if op != Op::Flush {
            request.set_length(1024);
        }
        request
    });
    rig.wait(|| rig.finished().len() > tag);
    rig.finished()[tag].1
}

#[test]
fn requests_fail_by_event_type_and_sector() {
    let eio = -libc::EIO;
    let cases: [(&str, &[Expected]); 8] = [
        (
            "event=read_aio",
            &[(WRITE, 0, 0), (READ, 0, eio), (WRITE, 0, eio)],
        ),
        (
            "event=none,iotype=flush",
            &[(READ, 0, 0), (Op::Flush, 0, eio), (Op::Flush, 0, eio)],
        ),
        (
            "event=none,sector=3,errno=28",
            &[
                (READ, 1, 0),
                (READ, 2, -28),
                (WRITE, 3, -28),
                (READ, 4, 0),
                (Op::Flush, 0, 0),
            ],
        ),
        (
            "event=write_aio,once=on,immediately=on",
            &[(READ, 0, 0), (WRITE, 0, eio), (WRITE, 0, 0)],
        ),
        (
            "event=pwritev_zero,iotype=write-zeroes",
            &[(WRITE, 0, 0), (ZERO, 0, eio)],
        ),
        ("event=pwritev_done", &[(WRITE, 0, 0), (READ, 0, eio)]),
        (
            "event=none,iotype=discard,sector=-1",
            &[(WRITE, 0, 0), (Op::Discard, 0, eio)],
        ),
        (
            "event=flush_to_disk,state=2",
            &[(Op::Flush, 0, 0), (READ, 0, 0)],
        ),
    ];
    for (rule, requests) in cases {
        let keys = rule.split(',').map(|key| format!("inject-error.0.{key}"));
        let rig = rig(&keys.collect::<Vec<_>>().join(","));
        for &(op, sector, expected) in requests {
            assert_eq!(run(&rig, op, sector), expected, "{rule}: {op:?} {sector}");
        }
    }
}

#[test]
fn an_event_of_another_rule_takes_the_place_of_the_active_one() {
    let rig = rig(
        "inject-error.0.event=read_aio,inject-error.0.errno=1,inject-error.1.event=write_aio,inject-error.1.errno=2",
    );
    let results = [READ, Op::Discard, WRITE, Op::Discard].map(|op| run(&rig, op, 0));
    assert_eq!(results, [-1, -1, -2, -2]);
}

#[test]
fn states_choose_the_rule() {
    let rig = rig(
        "set-state.0.event=write_aio,set-state.0.state=1,set-state.0.new_state=2,\
         inject-error.0.event=read_aio,inject-error.0.state=2,inject-error.0.once=on",
    );
    let results = [READ, WRITE, READ, READ].map(|op| run(&rig, op, 0));
    assert_eq!(results, [0, 0, -libc::EIO, 0]);
}

#[test]
fn delayed_requests_let_others_pass_and_keep_a_drain_waiting() {
    let rig = rig(
        "x-inject-delay.0.event=none,x-inject-delay.0.iotype=read,x-inject-delay.0.ns=20000000",
    );
    let start = Instant::now();
    rig.submit(0..3, |channel, tag| {
        let op = if tag == 1 { WRITE } else { READ };
        let mut request = channel.request(op, 0, tag);
        request.set_length(512);
        request
    });
    assert_eq!(rig.finished(), [(1, 0)]);
    let (_drained, calls) = rig.drain();
    rig.wait(|| calls.load(std::sync::atomic::Ordering::Relaxed) == 1);
    assert!(start.elapsed() >= Duration::from_millis(20));
    assert_eq!(rig.finished().len(), 3);
}

#[test]
fn mistakes_name_the_option() {
    let cases = [
        (
            "inject-error.0.errno=5",
            "Parameter 'inject-error.0.event' is missing",
        ),
        (
            "inject-error.0.event=l2_load",
            "Parameter 'event' does not accept value 'l2_load'",
        ),
        (
            "inject-error.1.event=none",
            "Parameter 'inject-error.0' is missing",
        ),
        (
            "set-state.0.event=none",
            "Parameter 'set-state.0.new_state' is missing",
        ),
        ("align=3k", "Cannot meet constraints with align 3072"),
        ("max-transfer=64k", "Parameter 'max-transfer' is unexpected"),
        (
            "take-child-perms.0=all",
            "Parameter 'null' does not accept value 'all'",
        ),
    ];
    for (more, expected) in cases {
        let keys = parse_dotted("driver", &format!("node-name=wrong,{NULL},{more}"));
        let error = blockdev(keys.unwrap()).unwrap_err();
        assert_eq!(error.to_string(), expected, "{more}");
    }
}

#[test]
fn permissions_of_the_child_are_taken_and_kept_from_others() {
    let text = |name: &str, more: &str| {
        format!("node-name={name},driver=blkdebug,image=blkdebug-child,{more}")
    };
    let open = |options: &str| blockdev(parse_dotted("driver", options).unwrap());
    crate::block::Node::open_blockdev(
        parse_dotted("driver", "node-name=blkdebug-child,driver=null-co").unwrap(),
    )
    .unwrap();
    let json = r#"{"node-name": "first", "driver": "blkdebug", "image": "blkdebug-child",
        "take-child-perms": ["write"], "unshare-child-perms": ["resize", "write"]}"#;
    let first = open(json).unwrap();
    let error = open(&text("second", "take-child-perms.0=resize")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    let neutral = open(&text("third", "align=4k")).unwrap();
    assert_eq!(neutral.block_size(), 4096);
    drop((first, neutral));
    crate::block::Node::remove("blkdebug-child").unwrap();
}
