//! Ready fds: dispatch among idle ones, bursts, and handlers that come and go.
#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd, RawFd};

use crate::Result;
use crate::cell::{Runner, SEED, Sample, Slice, random_index};
use crate::clock;
use crate::event_loop::{Action, Fds, Timers, Wait, hits};
use crate::eventfd::{self, EventFd};

/// A loop with the eventfds it watches. The loop goes first.
struct Watching<L> {
    looped: L,
    fds: Vec<EventFd>,
}

impl<L: Fds> Watching<L> {
    /// `count` fds with `action`.
    fn new(count: usize, action: Action) -> Result<Watching<L>> {
        let mut looped = L::new()?;
        let fds = (0..count)
            .map(|_| EventFd::new())
            .collect::<Result<Vec<_>>>()?;
        for fd in &fds {
            looped.watch(fd.as_raw_fd(), action)?;
        }
        Ok(Watching { looped, fds })
    }

    /// One fd to signal in the middle of `idle` that all loops share.
    fn among_idle(idle: usize) -> Result<Watching<L>> {
        let mut looped = L::new()?;
        let active = EventFd::new()?;
        let idle = eventfd::idle(idle)?;
        let mut all: Vec<RawFd> = idle.iter().map(|fd| fd.as_raw_fd()).collect();
        all.insert(all.len() / 2, active.as_raw_fd());
        for fd in all {
            looped.watch(fd, Action::Read)?;
        }
        Ok(Watching {
            looped,
            fds: vec![active],
        })
    }

    fn dispatch(&mut self, ops: u64) -> Result<Sample> {
        let slice = Slice::begin();
        self.looped.dispatch(&self.fds[0], ops);
        slice.end(ops)
    }

    /// Iterates until there were at least `ops` callbacks; an iteration may bring more.
    fn serve(&mut self, ops: u64) -> Result<Sample> {
        let slice = Slice::begin();
        let before = hits();
        self.looped.iterate_until(before + ops);
        slice.end(hits() - before)
    }

    fn iterate(&mut self, ops: u64) -> Result<Sample> {
        let slice = Slice::begin();
        self.looped.iterate_idly(ops);
        slice.end_unseen(ops)
    }
}

/// One active fd among `idle` others.
pub(crate) fn dispatch<L: Fds>(idle: usize) -> Result<Runner> {
    let mut watching = Watching::<L>::among_idle(idle)?;
    Ok(Box::new(move |ops| watching.dispatch(ops)))
}

/// The same with a timer far away.
pub(crate) fn dispatch_with_timer<L: Fds + Timers>(idle: usize) -> Result<Runner> {
    let mut watching = Watching::<L>::among_idle(idle)?;
    let mut timer = watching.looped.timer();
    let deadline = clock::now_ns() + 3_600_000_000_000;
    watching.looped.arm(&mut timer, deadline);
    Ok(Box::new(move |ops| {
        let _armed = &timer;
        watching.dispatch(ops)
    }))
}

/// `count` fds that are always ready.
pub(crate) fn burst<L: Fds>(count: usize) -> Result<Runner> {
    let mut watching = Watching::<L>::new(count, Action::Count)?;
    watching.fds.iter().for_each(EventFd::signal);
    Ok(Box::new(move |ops| watching.serve(ops)))
}

/// Takes away one random handler of `count` and adds it again.
pub(crate) fn readd<L: Fds>(count: usize) -> Result<Runner> {
    let mut looped = L::new()?;
    let fds = eventfd::idle(count)?;
    for fd in &fds {
        looped.watch(fd.as_raw_fd(), Action::Read)?;
    }
    let mut state = SEED;
    Ok(Box::new(move |ops| {
        let slice = Slice::begin();
        for op in 0..ops {
            let fd = fds[random_index(&mut state, count)].as_raw_fd();
            looped.unwatch(fd);
            looped.watch(fd, Action::Read)?;
            if L::LAZY && op % 32 == 31 {
                looped.iterate(Wait::NoBlock);
            }
        }
        slice.end_unseen(ops)
    }))
}

/// Iterations with `idle` idle fds and nothing to do.
pub(crate) fn empty<L: Fds>(idle: usize) -> Result<Runner> {
    let mut watching = Watching::<L>::new(idle, Action::Read)?;
    Ok(Box::new(move |ops| watching.iterate(ops)))
}
