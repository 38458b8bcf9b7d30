//! Disks of a machine that is stopped: requests in flight finish, then guest memory does not change, and after `cont` the
//! guest finishes its work.
//!
//! Needs /dev/kvm and says SKIP without.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // whatever goes wrong ends the test

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Instant;

use qcontext::device::Device;
use qcontext::kvm::microvm::MachineDevice;
use qcontext::kvm::{self, Machine};
use support::embedded_guest::{DEADLINE, Disk, Rig, Running, stats};
use support::guest::{self, Job};
use support::skip::skip;

/// All memory of the embedded guest.
const MEMORY: usize = 0x8_0000;

fn stand_still(machine: &Machine, disks: &[Arc<Device>]) {
    let (sender, parked) = channel();
    machine.pause(move || sender.send(()).unwrap());
    parked.recv_timeout(DEADLINE).unwrap();
    for disk in disks {
        let (tell, held) = channel();
        disk.hold(Box::new(move || tell.send(()).unwrap()));
        held.recv_timeout(DEADLINE).unwrap();
    }
}

fn go_on(machine: &Machine, disks: &[Arc<Device>]) {
    for disk in disks {
        disk.release();
    }
    machine.resume();
}

fn memory(machine: &Machine) -> Vec<u8> {
    let mut bytes = vec![0; MEMORY];
    assert!(machine.ram().memory().read(0, &mut bytes));
    bytes
}

fn finished(disks: &[Arc<Device>]) -> u64 {
    let stats = disks.iter().map(|disk| stats(disk));
    stats.map(|stats| stats.reads + stats.writes).sum()
}

/// Waits until the disks' contexts have done what is queued on them.
fn let_contexts_work(rig: &Rig) {
    for context in rig.contexts.iter().cycle().take(20 * rig.contexts.len()) {
        context.invoke_sync(|| ()).unwrap();
    }
}

/// How often a guest is stopped; then it runs to its end.
const STOPS: usize = 40;
/// How many stops must hit a guest in the middle of its work. On a busy machine a guest may have finished before it is
/// stopped, so more guests are run until there are enough.
const AMID: usize = 20;

/// Waits until the guest has come farther than `count`, or to its end.
fn wait_for_work(rig: &Rig, running: &Running, count: u64) {
    while finished(&rig.devices) == count && running.machine.is_running() {
        std::thread::yield_now();
    }
}

/// Stops and continues the guest; how far it had come each time.
fn interrupt(rig: &Rig, running: &Running) -> BTreeSet<u64> {
    let mut seen = BTreeSet::from([0]);
    for _ in 0..STOPS {
        wait_for_work(rig, running, *seen.last().unwrap());
        stand_still(&running.machine, &rig.devices);
        let (before, count) = (memory(&running.machine), finished(&rig.devices));
        let_contexts_work(rig);
        assert!(memory(&running.machine) == before, "after {count} requests");
        assert_eq!(finished(&rig.devices), count);
        seen.insert(count);
        go_on(&running.machine, &rig.devices);
    }
    seen
}

fn job(seed: u32, reset_every: u16, behaviour: u16) -> Job {
    Job {
        blocks: 256,
        depth: 8,
        kicks: 1,
        reset_every,
        seed,
        behaviour,
    }
}

fn check(disks: &[Disk]) {
    if let Err(error) = kvm::open() {
        return skip(error);
    }
    let (begin, mut amid) = (Instant::now(), 0);
    while amid < AMID {
        assert!(begin.elapsed() < DEADLINE, "guests are hardly at work");
        amid += run_with_stops(disks);
    }
}

/// Runs a guest to its end; how many of its stops were amid its work.
fn run_with_stops(disks: &[Disk]) -> usize {
    let (rig, builder) = Rig::new(disks, 1);
    let running = rig.start(builder);
    let seen = interrupt(&rig, &running);
    for (number, outcome) in running.finish().iter().enumerate() {
        assert_eq!(outcome.fault, None, "disk {number}: {outcome:?}");
        assert!(rig.image_is_right(number), "disk {number}");
    }
    let end = finished(&rig.devices);
    seen.iter()
        .filter(|&&count| 0 < count && count < end)
        .count()
}

#[test]
fn held_disks_leave_memory_alone_and_lose_nothing() {
    check(&[Disk::new(job(1, 0, 0)), Disk::new(job(2, 0, 0))]);
}

#[test]
fn requests_of_worker_threads_finish_before_a_disk_is_held() {
    let disk = |seed| Disk {
        drive: ",aio=threads",
        ..Disk::new(job(seed, 0, 0))
    };
    check(&[disk(1), disk(2)]);
}

#[test]
fn disks_that_their_guest_resets_all_the_time_are_held_as_well() {
    let queue_resets = guest::QUEUE_RESETS;
    check(&[Disk::new(job(1, 3, 0)), Disk::new(job(2, 2, queue_resets))]);
}
