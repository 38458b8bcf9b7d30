//! What a doorbell and an interrupt cost on a machine of ours: ioeventfd and irqfd against the trapped path.
//!
//! `machine [--out DIRECTORY]`; the directory gets the report.
//!
//! The embedded guest rings and is interrupted; each row is measured in turns with the others, and the medians count. On
//! a KVM that emulates real mode the guest's own instructions are slow, which all rows share. What an interrupt costs the
//! thread that raises it is measured alone, too, on a machine whose guest takes none.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // whatever goes wrong ends the measurement

mod interrupts;

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use support::embedded_guest::{Disk, Rig};
use support::guest::{Job, Outcome, POLL};

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
    let out = out();
    if let Err(error) = qcontext::kvm::open() {
        println!("machine: skipped: {error}");
        return;
    }
    let mut kicks = WIRINGS.map(|_| Vec::new());
    let mut trips = WIRINGS.map(|_| Vec::new());
    let raising = interrupts::Rig::new();
    let mut raises = interrupts::WAYS.map(|_| Vec::new());
    for round in 0..ROUNDS {
        for turn in 0..WIRINGS.len() {
            let row = (round + turn) % WIRINGS.len();
            kicks[row].push(kick(WIRINGS[row]));
            trips[row].push(round_trip(WIRINGS[row]));
            let way = (round + turn) % raises.len();
            raises[way].push(raising.raise(way));
        }
    }
    let mut text = format!("medians of {ROUNDS} rounds, measured in turns\n\n");
    text += &wirings_table(kicks, trips);
    text += &interrupts::table(raises.map(median));
    println!("machine: {text}");
    if let Some(out) = out {
        std::fs::create_dir_all(&out).unwrap();
        std::fs::write(out.join("machine.md"), &text).unwrap();
        println!("written to {}", out.display());
    }
}

/// Where the report goes, if the command line says so.
fn out() -> Option<PathBuf> {
    // cargo bench says --bench.
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let option = words.next()?;
    assert_eq!(option, "--out", "unknown option");
    Some(words.next().expect("--out needs a directory").into())
}

fn wirings_table(kicks: [Vec<Duration>; 4], trips: [Vec<(Duration, Duration)>; 4]) -> String {
    let mut text = String::from(
        "| notification | interrupt | per doorbell | request, doorbell to interrupt: mean | shortest |\n\
         |--------------|-----------|-------------:|-------------------------------------:|---------:|\n",
    );
    for ((wiring, kick), trip) in WIRINGS.iter().zip(kicks).zip(trips) {
        let (means, shortest): (Vec<_>, Vec<_>) = trip.into_iter().unzip();
        writeln!(
            text,
            "| {:12} | {:9} | {:9} ns | {:33} us | {:5} us |",
            if wiring.ioeventfd {
                "ioeventfd"
            } else {
                "trapped"
            },
            if wiring.irqfd { "irqfd" } else { "calls" },
            median(kick).as_nanos(),
            median(means).as_micros(),
            median(shortest).as_micros(),
        )
        .unwrap();
    }
    text
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
