//! A cell of the tables: one workload of one size on one loop.
#![forbid(unsafe_code)]

use std::time::Instant;

use super::Result;
use super::event_loop::{Kind, Loop, hits};

/// Runs a slice of at least the given number of operations.
pub(crate) type Runner = Box<dyn FnMut(u64) -> Result<Sample>>;

/// What a slice has shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) ns: f64,
    pub(crate) ops: u64,
}

impl Sample {
    pub(crate) fn ns_per_op(self) -> f64 {
        self.ns / self.ops.max(1) as f64
    }
}

#[derive(Clone)]
pub(crate) struct Cell {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) make: fn(usize) -> Result<Runner>,
}

impl Cell {
    pub(crate) fn of<L: Loop>(make: fn(usize) -> Result<Runner>) -> Cell {
        Cell {
            name: L::NAME,
            kind: L::KIND,
            make,
        }
    }
}

/// A running slice; it knows how many callbacks it must see.
pub(crate) struct Slice {
    begin: Instant,
    hits: u64,
}

impl Slice {
    pub(crate) fn begin() -> Slice {
        Slice {
            begin: Instant::now(),
            hits: hits(),
        }
    }

    /// The end of a slice of `ops` operations of a callback each.
    pub(crate) fn end(&self, ops: u64) -> Result<Sample> {
        let ns = self.begin.elapsed().as_nanos() as f64;
        let seen = hits() - self.hits;
        if seen != ops {
            return Err(format!("{ops} callbacks were due and {seen} came").into());
        }
        Ok(Sample { ns, ops })
    }

    /// The end of a slice of `ops` operations without callbacks.
    pub(crate) fn end_unseen(&self, ops: u64) -> Result<Sample> {
        Ok(Sample {
            ops,
            ..self.end(0)?
        })
    }
}

/// Where generators of random numbers start, the same for all.
pub(crate) const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// The next number of a xorshift generator, whose state is not 0.
pub(crate) fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// A random index below `len`, which is not 0.
pub(crate) fn random_index(state: &mut u64, len: usize) -> usize {
    usize::try_from(random(state) % len as u64).unwrap_or(0)
}
