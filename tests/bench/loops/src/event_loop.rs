//! What a loop must be able to do to be measured, one trait for each kind of workload.
//!
//! Every callback ends in [`hit`], so that each slice is checked: a loop that loses or repeats events is not fast.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::os::fd::{AsRawFd, RawFd};

pub(crate) use qcontext::Wait;

use super::Result;
use super::eventfd::{self, EventFd};

thread_local!(static HITS: Cell<u64> = const { Cell::new(0) });

/// Counts a callback on the calling thread.
pub(crate) fn hit() {
    HITS.set(HITS.get() + 1);
}

/// The callbacks counted on the calling thread so far.
pub(crate) fn hits() -> u64 {
    HITS.get()
}

/// Whose a loop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ours,
    /// The bare kernel calls and data structures.
    Limit,
    Peer,
}

/// What a handler does with its ready eventfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Read,
    /// Leaves it ready.
    Count,
}

impl Action {
    #[inline]
    pub(crate) fn perform(self, fd: RawFd) {
        if self == Action::Read {
            eventfd::read(fd);
        }
        hit();
    }
}

/// A loop, driven by the thread that made it.
pub(crate) trait Loop: Sized + 'static {
    const NAME: &'static str;
    const KIND: Kind;

    fn new() -> Result<Self>;

    fn iterate(&mut self, wait: Wait);

    /// `count` iterations with nothing to do.
    fn iterate_idly(&mut self, count: u64) {
        for _ in 0..count {
            self.iterate(Wait::NoBlock);
        }
    }

    /// Iterates until the thread's count is reached.
    fn iterate_until(&mut self, count: u64) {
        while hits() < count {
            self.iterate(Wait::Block);
        }
    }
}

/// Handlers of fds.
pub(crate) trait Fds: Loop {
    /// Changes reach the kernel with the next iteration only, so one belongs to them.
    const LAZY: bool = false;

    fn watch(&mut self, fd: RawFd, action: Action) -> Result<()>;

    fn unwatch(&mut self, fd: RawFd);

    /// Signals `active` and iterates until its handler has run, `ops` times.
    fn dispatch(&mut self, active: &EventFd, ops: u64) {
        for _ in 0..ops {
            let next = hits() + 1;
            active.signal();
            self.iterate_until(next);
        }
    }

    /// Watches an fd for other threads to signal.
    fn watch_signal(&mut self) -> Result<EventFd> {
        let fd = EventFd::new()?;
        self.watch(fd.as_raw_fd(), Action::Read)?;
        Ok(fd)
    }
}

/// Callbacks deferred by the loop's own thread.
pub(crate) trait Deferred: Loop {
    type Bh: 'static;

    fn bh(&mut self) -> Self::Bh;

    fn schedule(&mut self, bh: &Self::Bh);
}

/// Timers. Deadlines are nanoseconds of `CLOCK_MONOTONIC`.
pub(crate) trait Timers: Loop {
    type Timer: 'static;

    fn timer(&mut self) -> Self::Timer;

    fn arm(&mut self, timer: &mut Self::Timer, deadline_ns: i64);

    /// Arms a timer to be due `early_ns` before now, or as soon as the loop can.
    fn arm_due(&mut self, timer: &mut Self::Timer, now_ns: i64, early_ns: i64) {
        self.arm(timer, now_ns - early_ns);
    }

    /// Makes the deadlines of freshly armed timers have passed.
    fn pass_deadlines(&mut self) {}

    fn delete(&mut self, timers: Vec<Self::Timer>) {
        drop(timers);
    }
}

/// Wake-ups by other threads.
pub(crate) trait Wakes: Loop {
    /// Each wake is one hit of the loop's thread, if they do not overtake each other.
    type Waker: Send + 'static;

    fn waker(&mut self) -> Result<Self::Waker>;

    fn wake(waker: &Self::Waker);
}

/// Heap-allocated callbacks sent by other threads.
pub(crate) trait Posts: Loop {
    type Poster: Clone + Send + 'static;

    fn poster(&mut self) -> Result<Self::Poster>;

    /// Sends a callback that hits and carries `number`.
    fn post(poster: &Self::Poster, number: u64);
}

/// What a posted callback does.
#[inline]
pub(crate) fn receive(number: u64) {
    std::hint::black_box(number);
    hit();
}
