//! Deferred callbacks of the loop's own thread.
#![forbid(unsafe_code)]

use crate::Result;
use crate::cell::{Runner, Slice};
use crate::event_loop::{Deferred, Wait, hits};

/// Schedules `count` of them and iterates until they have run.
pub(crate) fn local<L: Deferred>(count: usize) -> Result<Runner> {
    let mut looped = L::new()?;
    let bhs: Vec<L::Bh> = (0..count).map(|_| looped.bh()).collect();
    Ok(Box::new(move |ops| {
        let rounds = ops.div_ceil(count as u64);
        let slice = Slice::begin();
        for _ in 0..rounds {
            let end = hits() + count as u64;
            for bh in &bhs {
                looped.schedule(bh);
            }
            while hits() < end {
                looped.iterate(Wait::NoBlock);
            }
        }
        slice.end(rounds * count as u64)
    }))
}
