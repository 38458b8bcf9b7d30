//! The embedded guest drives disks of contexts, with correct requests and with wrong ones.
//!
//! Needs /dev/kvm and says SKIP without.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // whatever goes wrong ends the test

use std::collections::BTreeSet;

use qcontext::QContext;
use support::embedded_guest::{Disk, Rig, run, stats};
use support::guest::{self, Fault, Job, Outcome};
use support::skip::skip;

/// Makes tests of functions that need a machine.
macro_rules! with_kvm {
    ($($name:ident),* $(,)?) => {
        mod on_kvm {
            $(#[test] fn $name() {
                match qcontext::kvm::open() {
                    Err(error) => super::skip(error),
                    Ok(_) => super::$name(),
                }
            })*
        }
    };
}

with_kvm!(
    two_disks_on_two_contexts,
    two_processors_drive_a_disk_each,
    notifications_may_trap_and_interrupts_may_be_calls,
    a_batch_that_is_rung_for_before_the_start_is_served,
    a_doorbell_rung_a_thousand_times_is_one_request,
    every_request_by_itself_is_a_storm_of_interrupts,
    a_device_reset_with_requests_in_flight_loses_nothing,
    a_queue_reset_with_requests_in_flight_loses_nothing,
    a_guest_that_never_acknowledges_is_served_all_the_same,
    a_guest_that_stops_in_the_middle_leaves_nothing_in_flight,
);

/// Two disks with the same job, but other patterns.
fn two(job: Job) -> [Disk; 2] {
    [1, 2].map(|seed| Disk::new(Job { seed, ..job }))
}

fn two_disks_on_two_contexts() {
    let (rig, outcomes) = run(&two(Job::default()), 1);
    let threads = rig.contexts.iter().map(QContext::thread_id);
    assert_eq!(threads.collect::<BTreeSet<_>>().len(), 2);
    for (device, outcome) in rig.devices.iter().zip(&outcomes) {
        assert_eq!(outcome.requests, 64 + 1 + 64);
        assert!(outcome.interrupts > 0, "{outcome:?}");
        assert!(outcome.latency.min <= outcome.latency.mean, "{outcome:?}");
        assert!(outcome.latency.mean <= outcome.latency.max, "{outcome:?}");
        let stats = stats(device);
        assert_eq!((stats.reads, stats.writes, stats.flushes), (64, 64, 1));
        assert_eq!((stats.bytes_read, stats.errors), (64 * 4096, 0));
        assert!(device.is_connected());
    }
}

fn two_processors_drive_a_disk_each() {
    let (_rig, outcomes) = run(&two(Job::default()), 2);
    assert_eq!(outcomes.map_requests(), [129, 129]);
}

fn notifications_may_trap_and_interrupts_may_be_calls() {
    for (ioeventfd, irqfd) in [(false, false), (false, true), (true, false)] {
        let mut disks = two(Job {
            blocks: 32,
            ..Job::default()
        });
        disks[0].ioeventfd = ioeventfd;
        disks[0].irqfd = irqfd;
        let (rig, outcomes) = run(&disks, 1);
        assert_eq!(outcomes.map_requests(), [65, 65]);
        assert!(outcomes[0].interrupts > 0);
        let kicks = stats(&rig.devices[0]).kicks;
        assert!(kicks > 0, "the trapped doorbell is passed on");
    }
}

fn a_batch_that_is_rung_for_before_the_start_is_served() {
    let job = Job {
        behaviour: guest::EARLY_KICK,
        blocks: 8,
        ..Job::default()
    };
    for ioeventfd in [true, false] {
        let mut disks = two(job);
        disks[0].ioeventfd = ioeventfd;
        let (_rig, outcomes) = run(&disks, 1);
        assert_eq!(outcomes.map_requests(), [17, 17]);
    }
}

fn a_doorbell_rung_a_thousand_times_is_one_request() {
    let job = Job {
        kicks: 1000,
        blocks: 16,
        ..Job::default()
    };
    for cpus in [1, 2] {
        let (rig, outcomes) = run(&two(job), cpus);
        assert_eq!(outcomes.map_requests(), [33, 33]);
        for device in &rig.devices {
            let stats = stats(device);
            assert_eq!((stats.reads, stats.writes), (16, 16));
        }
    }
}

fn every_request_by_itself_is_a_storm_of_interrupts() {
    let job = Job {
        depth: 1,
        blocks: 128,
        ..Job::default()
    };
    let (rig, outcomes) = run(&two(job), 1);
    for (device, outcome) in rig.devices.iter().zip(&outcomes) {
        assert_eq!(outcome.requests, 257);
        let calls = u64::from(outcome.requests);
        assert_eq!(stats(device).calls, calls);
        // Interrupts merge if the guest has found the end of a request by polling before it took the first one.
        assert!(
            (1..=calls).contains(&u64::from(outcome.interrupts)),
            "{outcome:?}"
        );
    }
}

fn a_device_reset_with_requests_in_flight_loses_nothing() {
    reset_under_load(0);
}

fn a_queue_reset_with_requests_in_flight_loses_nothing() {
    reset_under_load(guest::QUEUE_RESETS);
}

/// The guest submits each batch, resets the device, and submits the batch again.
fn reset_under_load(behaviour: u16) {
    let job = Job {
        reset_every: 1,
        depth: 8,
        blocks: 32,
        behaviour,
        ..Job::default()
    };
    // A pool thread for each request, and io_uring with O_DIRECT: both leave requests in flight when the reset comes.
    for drive in ["", ",aio=threads", ",cache.direct=on"] {
        for cpus in [1, 2] {
            let mut disks = two(job);
            disks[0].drive = drive;
            let (_rig, outcomes) = run(&disks, cpus);
            for outcome in outcomes {
                assert_eq!((outcome.requests, outcome.resets), (65, 9), "{drive}");
            }
        }
    }
}

fn a_guest_that_never_acknowledges_is_served_all_the_same() {
    let to_nobody = guest::NO_ACK | guest::NO_EOI | guest::POLL;
    for behaviour in [guest::NO_ACK, to_nobody] {
        let mut disks = two(Job {
            blocks: 32,
            ..Job::default()
        });
        disks[1].job.behaviour = behaviour;
        // The second disk's line is on the second controller, whose lines come after all of the first's: the first disk
        // has to get through although the second one's interrupt is never over.
        let (_rig, outcomes) = run(&disks, 1);
        assert_eq!(outcomes.map_requests(), [65, 65]);
    }
}

fn a_guest_that_stops_in_the_middle_leaves_nothing_in_flight() {
    let job = Job {
        blocks: 16384,
        depth: 8,
        ..Job::default()
    };
    let (rig, builder) = Rig::new(&two(job), 1);
    let running = rig.start(builder);
    while rig.devices.iter().any(|device| stats(device).writes < 100) {
        std::thread::yield_now();
    }
    let outcomes = running.outcomes();
    for outcome in outcomes {
        assert_eq!(outcome.fault, Some(Fault::Unfinished));
    }
    drop(running);
    // The end of the rig waits for the devices.
    drop(rig);
}

/// The part of an outcome that does not depend on time.
trait Requests {
    fn map_requests(&self) -> Vec<u32>;
}

impl Requests for Vec<Outcome> {
    fn map_requests(&self) -> Vec<u32> {
        self.iter().map(|outcome| outcome.requests).collect()
    }
}
