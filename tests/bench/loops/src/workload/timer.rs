//! Timers: arming, re-arming, firing, and how late they fire.
#![forbid(unsafe_code)]

use crate::Result;
use crate::cell::{Runner, SEED, Sample, Slice, random, random_index};
use crate::clock;
use crate::event_loop::{Timers, Wait, hits};

/// A random time between 10 and 20 s from `now`.
fn far(now: i64, state: &mut u64) -> i64 {
    now + 10_000_000_000 + i64::try_from(random(state) % 10_000_000_000).unwrap_or(0)
}

fn filled<L: Timers>(looped: &mut L, count: usize, state: &mut u64) -> Vec<L::Timer> {
    let now = clock::now_ns();
    (0..count)
        .map(|_| {
            let mut timer = looped.timer();
            looped.arm(&mut timer, far(now, state));
            timer
        })
        .collect()
}

/// Makes and arms `count` timers.
pub(crate) fn arm<L: Timers>(count: usize) -> Result<Runner> {
    let mut looped = L::new()?;
    let mut state = SEED;
    Ok(Box::new(move |_| {
        let slice = Slice::begin();
        let timers = filled(&mut looped, count, &mut state);
        let sample = slice.end_unseen(count as u64)?;
        looped.delete(timers);
        // Some loops free things when they iterate.
        looped.iterate(Wait::NoBlock);
        Ok(sample)
    }))
}

/// Arms a random one of `count` for another time.
pub(crate) fn rearm<L: Timers>(count: usize) -> Result<Runner> {
    let mut looped = L::new()?;
    let mut state = SEED;
    let mut timers = filled(&mut looped, count, &mut state);
    Ok(Box::new(move |ops| {
        let now = clock::now_ns();
        let slice = Slice::begin();
        for _ in 0..ops {
            let timer = &mut timers[random_index(&mut state, count)];
            looped.arm(timer, far(now, &mut state));
        }
        slice.end_unseen(ops)
    }))
}

/// Runs `count` timers that are due.
pub(crate) fn fire<L: Timers>(count: usize) -> Result<Runner> {
    let mut looped = L::new()?;
    let mut timers: Vec<L::Timer> = (0..count).map(|_| looped.timer()).collect();
    let mut state = SEED;
    Ok(Box::new(move |_| {
        let now = clock::now_ns();
        for timer in &mut timers {
            let early = i64::try_from(random(&mut state) % 1_000_000).unwrap_or(0);
            looped.arm_due(timer, now, early);
        }
        looped.pass_deadlines();
        let slice = Slice::begin();
        let end = hits() + count as u64;
        while hits() < end {
            looped.iterate(Wait::NoBlock);
        }
        slice.end(count as u64)
    }))
}

/// Iterations with nothing to do, with `count` timers far away.
pub(crate) fn empty<L: Timers>(count: usize) -> Result<Runner> {
    let mut looped = L::new()?;
    let mut state = SEED;
    let timers = filled(&mut looped, count, &mut state);
    Ok(Box::new(move |ops| {
        let _armed = &timers;
        let slice = Slice::begin();
        looped.iterate_idly(ops);
        slice.end_unseen(ops)
    }))
}

/// How late a timer `delay_us` from now fires: a slice is one timer.
pub(crate) fn lateness<L: Timers>(delay_us: usize) -> Result<Runner> {
    let mut looped = L::new()?;
    let mut timer = looped.timer();
    let delay = i64::try_from(delay_us)? * 1000;
    Ok(Box::new(move |_| {
        let slice = Slice::begin();
        let deadline = clock::now_ns() + delay;
        looped.arm(&mut timer, deadline);
        let end = hits() + 1;
        looped.iterate_until(end);
        let late = clock::now_ns() - deadline;
        slice.end(1)?;
        Ok(Sample {
            ns: late as f64,
            ops: 1,
        })
    }))
}
