//! What a doorbell and an interrupt cost on a machine of ours: ioeventfd and irqfd against the trapped path.
//!
//! The embedded guest rings and is interrupted; each row is measured in turns with the others, and the medians count. On
//! a KVM that emulates real mode the guest's own instructions are slow, which all rows share.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // whatever goes wrong ends the measurement

#[path = "../support/embedded.rs"]
mod embedded;

use std::time::Duration;

use embedded::{Disk, Rig};
use qcontext::kvm::guest::{Job, Outcome, POLL};

/// Rounds; the medians of so many count.
const ROUNDS: usize = 9;

/// Doorbells in a row.
const KICKS: u16 = 10_000;

/// Requests, one after the other, of the interrupt's measurement.
const BLOCKS: u16 = 64;

/// A way to be wired.
#[derive(Clone, Copy)]
struct Wiring {
    ioeventfd: bool,
    irqfd: bool,
}

const WIRINGS: [Wiring; 4] = [
    Wiring {
        ioeventfd: true,
        irqfd: true,
    },
    Wiring {
        ioeventfd: true,
        irqfd: false,
    },
    Wiring {
        ioeventfd: false,
        irqfd: true,
    },
    Wiring {
        ioeventfd: false,
        irqfd: false,
    },
];

fn main() {
    if let Err(error) = qcontext::kvm::open() {
        println!("machine: skipped: {error}");
        return;
    }
    let mut kicks = WIRINGS.map(|_| Vec::new());
    let mut trips = WIRINGS.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        for (row, wiring) in WIRINGS.into_iter().enumerate() {
            kicks[row].push(kick(wiring));
            trips[row].push(round_trip(wiring));
        }
    }
    println!("machine: medians of {ROUNDS} rounds, measured in turns");
    println!(
        "notification  interrupt  per doorbell  request, doorbell to interrupt (mean, shortest)"
    );
    for ((wiring, kick), trip) in WIRINGS.iter().zip(kicks).zip(trips) {
        let (means, shortest): (Vec<_>, Vec<_>) = trip.into_iter().unzip();
        println!(
            "{:12}  {:9}  {:9} ns  {:9} us {:9} us",
            if wiring.ioeventfd {
                "ioeventfd"
            } else {
                "trapped"
            },
            if wiring.irqfd { "irqfd" } else { "calls" },
            median(kick).as_nanos(),
            median(means).as_micros(),
            median(shortest).as_micros(),
        );
    }
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort();
    values[values.len() / 2]
}

/// Runs the guest on one disk; how long it took and what came of it.
fn run(wiring: Wiring, job: Job) -> (Duration, Outcome) {
    let mut disk = Disk::new(job);
    disk.ioeventfd = wiring.ioeventfd;
    disk.irqfd = wiring.irqfd;
    let (rig, builder) = Rig::new(&[disk], 1);
    let running = rig.start(builder);
    let outcome = running.finish()[0];
    assert_eq!(outcome.fault, None);
    (running.reports.duration(), outcome)
}

/// The time of one doorbell: of a guest that rings often, less one that rings once for each of its three batches.
fn kick(wiring: Wiring) -> Duration {
    let job = |kicks| Job {
        blocks: 1,
        depth: 1,
        kicks,
        behaviour: POLL,
        ..Job::default()
    };
    let (often, _) = run(wiring, job(KICKS));
    let (once, _) = run(wiring, job(1));
    often.saturating_sub(once) / (3 * (u32::from(KICKS) - 1))
}

/// From doorbell to interrupt of single requests: the mean and the shortest.
fn round_trip(wiring: Wiring) -> (Duration, Duration) {
    let job = Job {
        blocks: BLOCKS,
        depth: 1,
        ..Job::default()
    };
    let (_, outcome) = run(wiring, job);
    (outcome.latency.mean, outcome.latency.min)
}
