//! Other threads: round trips between two loops, and posts to one.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Barrier, mpsc};
use std::thread;

use crate::cell::{Runner, Sample, Slice};
use crate::event_loop::{Posts, Wakes, hits};
use crate::{Result, clock, machine};

/// Posts of a slice, whatever the number of producers.
pub(crate) const POSTS: u64 = 20_000;

/// Round trips before the clock starts.
const WARM_UP: u64 = 20;

/// Round trips between two loops that sleep, on `cpus` processors.
pub(crate) fn ping_pong<L: Wakes>(cpus: usize) -> Result<Runner> {
    machine::require_cpus(cpus)?;
    Ok(Box::new(move |ops| {
        thread::scope(|scope| {
            // A thread of its own, which takes its pinning along when it ends.
            let ping = scope.spawn(move || ping::<L>(cpus, ops).map_err(|e| e.to_string()));
            Ok(ping.join().map_err(|_| "a loop panicked")??)
        })
    }))
}

fn ping<L: Wakes>(cpus: usize, ops: u64) -> Result<Sample> {
    machine::pin(0);
    let mut looped = L::new()?;
    let mine = looped.waker()?;
    let (sender, receiver) = mpsc::channel();
    let partner = thread::spawn(move || {
        pong::<L>(cpus - 1, ops + WARM_UP, &mine, &sender);
        // Dropped after the last wake-up has arrived.
        mine
    });
    let its = receiver.recv()?;
    let mut trip = || {
        let next = hits() + 1;
        L::wake(&its);
        looped.iterate_until(next);
    };
    (0..WARM_UP).for_each(|_| trip());
    let slice = Slice::begin();
    (0..ops).for_each(|_| trip());
    let sample = slice.end(ops);
    partner.join().map_err(|_| "the other loop panicked")?;
    sample
}

fn pong<L: Wakes>(cpu: usize, trips: u64, back: &L::Waker, sender: &mpsc::Sender<L::Waker>) {
    machine::pin(cpu);
    let Ok(mut looped) = L::new() else { return };
    let Ok(waker) = looped.waker() else { return };
    if sender.send(waker).is_err() {
        return;
    }
    for trip in 1..=trips {
        looped.iterate_until(trip);
        L::wake(back);
    }
}

/// When the first of several producers began.
pub(crate) struct Start {
    barrier: Barrier,
    first: AtomicI64,
}

impl Start {
    /// For `producers` threads and the one that waits for them.
    pub(crate) fn new(producers: usize) -> Start {
        Start {
            barrier: Barrier::new(producers + 1),
            first: AtomicI64::new(i64::MAX),
        }
    }

    /// A producer waits for the others and begins.
    pub(crate) fn begin(&self) {
        self.barrier.wait();
        self.first.fetch_min(clock::now_ns(), Ordering::AcqRel);
    }

    /// Lets the producers begin.
    pub(crate) fn release(&self) {
        self.barrier.wait();
    }

    /// Nanoseconds from the first beginning until `end`.
    pub(crate) fn until(&self, end: i64) -> f64 {
        (end - self.first.load(Ordering::Acquire)) as f64
    }
}

/// `producers` threads post to one loop; the clock runs until everything has arrived.
pub(crate) fn post<L: Posts>(producers: usize) -> Result<Runner> {
    machine::require_cpus(2)?;
    let mut looped = L::new()?;
    let poster = looped.poster()?;
    Ok(Box::new(move |_| {
        let share = POSTS / producers as u64;
        let all = share * producers as u64;
        let start = Start::new(producers);
        thread::scope(|scope| {
            for _ in 0..producers {
                let (poster, start) = (poster.clone(), &start);
                scope.spawn(move || {
                    start.begin();
                    (0..share).for_each(|number| L::post(&poster, number));
                });
            }
            start.release();
            let slice = Slice::begin();
            looped.iterate_until(hits() + all);
            let end = clock::now_ns();
            Ok(Sample {
                ns: start.until(end),
                ..slice.end(all)?
            })
        })
    }))
}
