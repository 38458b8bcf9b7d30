//! The figures of slices, and their medians.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::time::Duration;

use super::case::{Arrangement, Case};
use super::lock::Takes;

/// What one slice of an arrangement has shown.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    /// For each device the requests of a batch, and what each batch took.
    pub(crate) latencies: Vec<(usize, Vec<Duration>)>,
    pub(crate) elapsed: Duration,
    /// Processor time of the contexts' threads.
    pub(crate) contexts_ns: u64,
    /// How often these threads left their processors.
    pub(crate) switches: u64,
    pub(crate) takes: Takes,
    /// The most devices that were at work at the same time, so far.
    pub(crate) at_once: usize,
    /// What others used of the machine, in processors; known in steps, and so less than 0 at times.
    pub(crate) others: f64,
}

/// How requests fared; times in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Service {
    pub(crate) per_second: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// Medians of an arrangement's slices, each figure for itself, but percentiles are those of all slices together; times in
/// microseconds.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub(crate) all: Service,
    pub(crate) devices: Vec<Service>,
    /// Processor time of the contexts for each request.
    pub(crate) cpu: f64,
    /// Context switches of the contexts for each request.
    pub(crate) switches: f64,
    /// Dispatches that took the lock, for each request.
    pub(crate) takes: f64,
    /// The share of these that had to wait.
    pub(crate) waits: f64,
    /// How long one that had to wait did so.
    pub(crate) wait: f64,
    pub(crate) at_once: usize,
    pub(crate) others: f64,
}

/// A case in all arrangements, in the order of [`Arrangement::ALL`].
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) case: Case,
    figures: Vec<Figures>,
}

impl Measured {
    pub(crate) fn new(case: Case, slices: &[Vec<Slice>]) -> Measured {
        Measured {
            case,
            figures: slices.iter().map(|slices| Figures::new(slices)).collect(),
        }
    }

    pub(crate) fn of(&self, arrangement: Arrangement) -> &Figures {
        &self.figures[arrangement.index()]
    }
}

impl Figures {
    fn new(slices: &[Slice]) -> Figures {
        let devices = slices.first().map_or(0, |slice| slice.latencies.len());
        let takes = |slice: &Slice| slice.takes.all as f64;
        let waits = |slice: &Slice| slice.takes.waits as f64;
        Figures {
            all: Service::new(slices, 0..devices),
            devices: (0..devices)
                .map(|device| Service::new(slices, device..device + 1))
                .collect(),
            cpu: median(slices, |slice| {
                slice.contexts_ns as f64 / 1e3 / slice.requests(0..devices)
            }),
            switches: median(slices, |slice| {
                slice.switches as f64 / slice.requests(0..devices)
            }),
            takes: median(slices, |slice| takes(slice) / slice.requests(0..devices)),
            waits: median(slices, |slice| waits(slice) / takes(slice).max(1.0)),
            wait: median(slices, |slice| {
                slice.takes.waited_ns as f64 / 1e3 / waits(slice).max(1.0)
            }),
            at_once: slices.iter().map(|slice| slice.at_once).max().unwrap_or(0),
            others: mean(slices, |slice| slice.others).max(0.0),
        }
    }
}

impl Slice {
    /// The requests of some devices.
    fn requests(&self, devices: Range<usize>) -> f64 {
        let devices = self.latencies[devices].iter();
        devices
            .map(|(depth, batches)| depth * batches.len())
            .sum::<usize>() as f64
    }
}

/// The latency of the request of that number; `sorted` holds latencies and how many requests had them.
fn percentile(sorted: &[(Duration, usize)], number: usize) -> f64 {
    let mut seen = 0;
    let found = sorted.iter().find(|(_, count)| {
        seen += count;
        seen > number
    });
    found.map_or(f64::NAN, |(latency, _)| latency.as_secs_f64() * 1e6)
}

impl Service {
    /// How the requests of some devices fared.
    fn new(slices: &[Slice], devices: Range<usize>) -> Service {
        let mut sorted = Vec::new();
        for (depth, batches) in slices
            .iter()
            .flat_map(|slice| &slice.latencies[devices.clone()])
        {
            sorted.extend(batches.iter().map(|latency| (*latency, *depth)));
        }
        sorted.sort_unstable();
        let count: usize = sorted.iter().map(|(_, depth)| depth).sum();
        Service {
            per_second: median(slices, |slice| {
                slice.requests(devices.clone()) / slice.elapsed.as_secs_f64()
            }),
            p50: percentile(&sorted, count / 2),
            p99: percentile(&sorted, count * 99 / 100),
        }
    }
}

fn median(slices: &[Slice], figure: impl Fn(&Slice) -> f64) -> f64 {
    let mut figures: Vec<f64> = slices.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

fn mean(slices: &[Slice], figure: impl Fn(&Slice) -> f64) -> f64 {
    slices.iter().map(figure).sum::<f64>() / slices.len() as f64
}
