//! Measuring a workload: the loops in turns, slice by slice, so that whatever else the machine does hits all of them.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::Result;
use crate::catalogue::{Figure, Workload};
use crate::cell::Runner;
use crate::event_loop::Kind;
use crate::machine::{self, RealTime};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// The length of a slice.
    pub(crate) slice: Duration,
    pub(crate) rounds: usize,
    /// No more rounds begin after it.
    pub(crate) budget: Duration,
    /// For what has a processor to itself.
    priority: RealTime,
}

/// Slices of a turn.
const SLICES: usize = 3;

impl Effort {
    pub(crate) const FULL: Effort = Effort {
        slice: Duration::from_millis(2),
        rounds: 20,
        budget: Duration::from_secs(8),
        priority: RealTime::On,
    };
    /// Enough to see that everything works.
    pub(crate) const QUICK: Effort = Effort {
        slice: Duration::from_micros(100),
        rounds: 2,
        budget: Duration::from_millis(200),
        priority: RealTime::Off,
    };
}

impl Effort {
    /// What the reader must know of how it was measured.
    pub(crate) fn note(self) -> &'static str {
        let allowed = machine::real_time(self.priority);
        machine::real_time(RealTime::Off);
        match (self.priority, allowed) {
            (RealTime::On, true) => ", real-time priority",
            (RealTime::On, false) => ", real-time priority refused",
            (RealTime::Off, _) => ", no real-time priority",
        }
    }
}

/// The figures of one cell, in nanoseconds per operation.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) best: f64,
    pub(crate) median: f64,
    /// What the targets are about.
    pub(crate) decisive: f64,
}

/// A workload's figures, and the loops that could not be measured, with the reason.
pub(crate) struct Measured {
    pub(crate) name: &'static str,
    pub(crate) size: usize,
    pub(crate) figure: Figure,
    pub(crate) figures: Vec<Figures>,
    pub(crate) skipped: Vec<(&'static str, String)>,
}

impl Measured {
    pub(crate) fn title(&self) -> String {
        format!("{} {}", self.name, self.size)
    }
}

/// A cell that is set up.
struct Ready {
    name: &'static str,
    kind: Kind,
    run: Runner,
    ops: u64,
    slices: Vec<f64>,
}

pub(crate) fn measure(workload: &Workload, effort: Effort) -> Result<Measured> {
    // First, as threads that the loops start inherit it.
    if workload.figure == Figure::Best {
        machine::real_time(effort.priority);
    }
    let (mut ready, mut skipped) = (Vec::new(), Vec::new());
    for cell in &workload.cells {
        match (cell.make)(workload.size) {
            Ok(run) => ready.push(Ready {
                name: cell.name,
                kind: cell.kind,
                run,
                ops: 1,
                slices: Vec::new(),
            }),
            Err(reason) => skipped.push((cell.name, reason.to_string())),
        }
    }
    let measured = run_rounds(&mut ready, workload.figure, effort);
    machine::real_time(RealTime::Off);
    measured?;
    let figures = ready.into_iter().map(|cell| cell.figures(workload.figure));
    Ok(Measured {
        name: workload.name,
        size: workload.size,
        figure: workload.figure,
        figures: figures.collect(),
        skipped,
    })
}

fn run_rounds(ready: &mut [Ready], figure: Figure, effort: Effort) -> Result<()> {
    let begin = Instant::now();
    for cell in ready.iter_mut().filter(|_| figure != Figure::Lateness) {
        cell.calibrate(effort.slice)?;
    }
    for round in 0..effort.rounds {
        if round > 1 && begin.elapsed() > effort.budget {
            break;
        }
        for turn in 0..ready.len() {
            let cell = &mut ready[(round + turn) % ready.len().max(1)];
            cell.turn()?;
        }
    }
    Ok(())
}

impl Ready {
    /// Finds how many operations fill a slice.
    fn calibrate(&mut self, slice: Duration) -> Result<()> {
        let wanted = slice.as_nanos() as f64;
        for _ in 0..24 {
            let sample = (self.run)(self.ops).map_err(|error| format!("{}: {error}", self.name))?;
            if sample.ns >= wanted || sample.ops > self.ops.saturating_mul(16) {
                break;
            }
            self.ops *= 2;
        }
        Ok(())
    }

    /// A few slices, as the first one finds the caches full of what the other loops did.
    fn turn(&mut self) -> Result<()> {
        for _ in 0..SLICES {
            let sample = (self.run)(self.ops).map_err(|error| format!("{}: {error}", self.name))?;
            self.slices.push(sample.ns_per_op());
        }
        Ok(())
    }

    fn figures(mut self, figure: Figure) -> Figures {
        self.slices.sort_by(f64::total_cmp);
        let best = self.slices.first().copied().unwrap_or(f64::NAN);
        let median = self.slices.get(self.slices.len() / 2);
        let median = median.copied().unwrap_or(f64::NAN);
        Figures {
            name: self.name,
            kind: self.kind,
            best,
            median,
            decisive: if figure == Figure::Best { best } else { median },
        }
    }
}
