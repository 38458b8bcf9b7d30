//! Requests through channels of every kind, and drains: hold, wait for what is below, release.
#![forbid(unsafe_code)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use support::seccomp::{Penalty, forbid};

use super::*;
use support::host_storage::LoopDevice;
use support::skip::skip;

use crate::block::options::blockdev;
use crate::block::test_rig::{Rig, TestOwner};
use crate::block::{Access, Parent};
use crate::object::options;

const UNIT: u64 = 4096;

fn is(count: &AtomicUsize, expected: usize) -> bool {
    count.load(Ordering::Relaxed) == expected
}

#[test]
fn a_channel_without_requests_is_quiet_soon_but_not_at_once() {
    for (store, rig) in Rig::all() {
        let (drained, calls) = rig.drain();
        assert!(is(&calls, 0), "{store}");
        rig.wait(|| is(&calls, 1));
        drop(drained);
        rig.iterate(3);
        assert!(is(&calls, 1), "{store}");
    }
}

#[test]
fn what_is_below_comes_back_before_the_channel_is_quiet() {
    for (store, rig) in Rig::all() {
        rig.flush(0..10);
        let (_drained, calls) = rig.drain();
        rig.wait(|| is(&calls, 1));
        assert_eq!(rig.finished().len(), 10, "{store}");
        assert_eq!(rig.with(|channel| channel.in_flight()), 0, "{store}");
    }
}

#[test]
fn held_requests_wait_for_the_release_and_go_on_in_order() {
    for (store, rig) in Rig::all() {
        let (drained, calls) = rig.drain();
        rig.wait(|| is(&calls, 1));
        rig.flush(0..5);
        // Empty reads finish when they pass, on every store.
        rig.submit(5..10, |channel, tag| channel.request(Op::Read, 0, tag));
        rig.iterate(5);
        assert!(rig.finished().is_empty(), "{store}");
        assert_eq!(rig.with(|channel| channel.in_flight()), 10, "{store}");
        drop(drained);
        // Not before those that were held.
        rig.submit(10..12, |channel, tag| channel.request(Op::Read, 0, tag));
        rig.wait(|| rig.finished().len() == 12);
        let finished = rig.finished();
        assert!(finished.iter().all(|&(_, result)| result == 0), "{store}");
        let tags = finished.iter().map(|&(tag, _)| tag);
        let passed: Vec<u64> = tags.filter(|&tag| tag >= 5).collect();
        assert_eq!(passed, [5, 6, 7, 8, 9, 10, 11], "{store}");
    }
}

#[test]
fn nested_drains_hold_until_the_last_is_released() {
    for (store, rig) in Rig::all() {
        rig.flush(0..3);
        let (outer, outer_calls) = rig.drain();
        let (inner, inner_calls) = rig.drain();
        rig.wait(|| is(&outer_calls, 1) && is(&inner_calls, 1));
        rig.flush(3..4);
        drop(outer);
        rig.iterate(5);
        assert_eq!(rig.finished().len(), 3, "{store}");
        let (late, late_calls) = rig.drain();
        rig.wait(|| is(&late_calls, 1));
        drop(inner);
        rig.iterate(5);
        assert_eq!(rig.finished().len(), 3, "{store}");
        drop(late);
        rig.wait(|| rig.finished().len() == 4);
    }
}

#[test]
fn a_release_while_draining_ends_the_drain_uncalled() {
    for (store, rig) in Rig::all() {
        rig.flush(0..10);
        let (drained, calls) = rig.drain();
        drop(drained);
        rig.flush(10..20);
        rig.wait(|| rig.finished().len() == 20);
        rig.iterate(3);
        assert!(is(&calls, 0), "{store}");
    }
}

#[test]
fn a_drain_may_begin_and_end_on_another_thread() {
    for (store, rig) in Rig::all() {
        rig.flush(0..4);
        let (drained, calls) =
            std::thread::scope(|scope| scope.spawn(|| rig.drain()).join().unwrap());
        rig.wait(|| is(&calls, 1));
        assert_eq!(rig.finished().len(), 4, "{store}");
        rig.flush(4..5);
        std::thread::scope(|scope| scope.spawn(|| drop(drained)).join().unwrap());
        rig.wait(|| rig.finished().len() == 5);
    }
}

#[test]
fn a_channel_that_goes_is_quiet_for_drains_before_and_after() {
    for (store, rig) in Rig::all() {
        let (_early, early_calls) = rig.drain();
        let channel = rig.channel().take().unwrap();
        let gate = Arc::clone(&channel.gate);
        drop(channel);
        rig.wait(|| is(&early_calls, 1));
        let late_calls = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&late_calls);
        let _late = gate.hold(Box::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        }));
        rig.wait(|| is(&late_calls, 1));
        assert!(is(&early_calls, 1), "{store}");
    }
}

#[test]
fn a_drain_waits_for_requests_that_wait_for_bounce_buffers() {
    const COUNT: u64 = 100;
    for options in [
        "driver=file,aio=io_uring,cache.direct=on,filename=FILE",
        "driver=file,aio=threads,cache.direct=on,filename=FILE",
        "driver=blkdebug,image.driver=file,image.cache.direct=on,image.filename=FILE",
    ] {
        let Some(rig) = Rig::new(("/var/tmp", options)) else {
            continue;
        };
        let length = 2 * usize::try_from(UNIT).unwrap();
        let memory = Mutex::new(vec![7; length]);
        // Misaligned, and only read.
        let write = |channel: &mut Channel, tag| {
            let mut request = channel.request(Op::Write, tag * UNIT, tag);
            request.set_memory(&mut memory.lock().unwrap()[1..=length / 2]);
            request
        };
        rig.submit(0..COUNT, write);
        let (drained, calls) = rig.drain();
        rig.submit(COUNT..2 * COUNT, write);
        rig.wait(|| is(&calls, 1));
        let count = usize::try_from(COUNT).unwrap();
        assert_eq!(rig.finished().len(), count, "{options}");
        drop(drained);
        rig.wait(|| rig.finished().len() == 2 * count);
        let worked = rig.finished().iter().all(|&(_, result)| result == 0);
        assert!(worked, "{options}");
    }
}

#[test]
fn a_parent_that_did_not_ask_to_write_cannot() {
    for (store, rig) in Rig::all() {
        let reader = Access {
            needs: Permissions::CONSISTENT_READ,
            shares: Permissions::ALL,
        };
        let node = rig.edge.node();
        let edge = node.attach(Parent::new("test", "reader"), reader).unwrap();
        let no_owner: Weak<TestOwner> = Weak::new();
        let mut channel = Channel::open(&edge, &rig.aio, no_owner);
        for op in [Op::Write, Op::Discard, Op::WriteZeroes { unmap: true }] {
            let mut request = channel.request(op, 0, 0);
            request.set_length(UNIT);
            let Submission::Done(done) = channel.submit(request) else {
                panic!("{store}: {op:?} was not refused");
            };
            assert_eq!(done.result, -libc::EROFS, "{store} {op:?}");
        }
    }
}

/// Writes every second sector of the first block, from `first` on, and reads them back, round after round.
fn write_and_read_sectors(node: &Arc<Node>, first: u64) {
    let rig = Rig::over(node);
    let memory = Mutex::new([0; 4 * 512]);
    let request = |channel: &mut Channel, op, tag: u64| {
        let mut request = channel.request(op, (first + 2 * tag) * 512, tag);
        let start = usize::try_from(tag).unwrap() * 512;
        request.set_memory(&mut memory.lock().unwrap()[start..start + 512]);
        request
    };
    for round in 1..=50 {
        let before = rig.finished().len();
        memory.lock().unwrap().fill(round);
        rig.submit(0..4, |channel, tag| request(channel, Op::Write, tag));
        rig.wait(|| rig.finished().len() == before + 4);
        memory.lock().unwrap().fill(0);
        rig.submit(0..4, |channel, tag| request(channel, Op::Read, tag));
        rig.wait(|| rig.finished().len() == before + 8);
        assert!(rig.finished().iter().all(|&(_, result)| result == 0));
        let read = *memory.lock().unwrap();
        assert!(read == [round; 4 * 512], "round {round}, sectors {first}");
    }
}

#[test]
fn sectors_of_one_block_that_two_threads_write_are_all_there() {
    for engine in ["io_uring", "threads"] {
        let device = match LoopDevice::new(4096, 1 << 20) {
            Ok(device) => device,
            Err(reason) => return skip(reason),
        };
        let path = device.path().display();
        let text = format!("file,node-name=two,aio={engine},cache.direct=on,filename={path}");
        let node = blockdev(options::parse_dotted("driver", &text).unwrap()).unwrap();
        std::thread::scope(|scope| {
            for first in 0..2 {
                let node = &node;
                scope.spawn(move || write_and_read_sectors(node, first));
            }
        });
    }
}

/// The ring of a home is made for its first request, when fds may have run out.
#[test]
fn requests_go_through_the_pool_while_the_kernel_gives_no_ring() {
    let store = "driver=file,aio=io_uring,filename=FILE";
    let outcome = std::thread::spawn(move || {
        let Some(rig) = Rig::new(("/var/tmp", store)) else {
            return Err(std::io::ErrorKind::Unsupported.into());
        };
        let calls = [libc::SYS_io_uring_setup];
        forbid(&calls, Penalty::Errno(libc::EMFILE))?;
        for tags in [0..5, 5..10] {
            let count = usize::try_from(tags.end).unwrap();
            rig.flush(tags);
            rig.wait(|| rig.finished().len() == count);
        }
        Ok::<_, std::io::Error>(rig.finished())
    });
    match outcome.join().unwrap() {
        Ok(finished) => assert!(
            finished.iter().all(|&(_, result)| result == 0),
            "{finished:?}"
        ),
        Err(error) => support::skip::skip(error),
    }
}
