//! The four clocks timers run on, in nanoseconds.
//!
//! | clock | time base |
//! |---|---|
//! | realtime | `CLOCK_MONOTONIC` |
//! | virtual | realtime, but it stands still while stopped |
//! | host | `CLOCK_REALTIME`, the wall clock |
//! | virtual-rt | realtime; kept apart for callers that schedule virtual time itself |
//!
//! # Threads
//! Everything here is callable from any thread; reading a clock is async-signal-safe.
#![allow(unsafe_code)] // clock_gettime(2)

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicI64, Ordering};

/// A time base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Monotonic time since boot.
    Realtime,
    /// Monotonic time that stands still while the machine is stopped.
    Virtual,
    /// The wall clock, which can jump.
    Host,
    /// Monotonic time, for callers that schedule virtual time themselves.
    VirtualRt,
}

/// The number of clocks; `Clock as usize` is below it.
pub(crate) const CLOCKS: usize = 4;

/// What the virtual clock does, in one word: a tag in the low bits, a number of nanoseconds above them.
static VIRTUAL: AtomicI64 = AtomicI64::new(RUNNING);

/// The number is realtime - virtual.
const RUNNING: i64 = 0;
/// As for running, but the next thread that reads the clock stops it.
const STOPPING: i64 = 1;
/// The number is the time at which the clock stands.
const STOPPED: i64 = 2;
const TAG_BITS: u32 = 2;
const TAG: i64 = (1 << TAG_BITS) - 1;

impl Clock {
    /// All clocks, in the order of their numbers.
    pub(crate) const ALL: [Clock; CLOCKS] = [
        Clock::Realtime,
        Clock::Virtual,
        Clock::Host,
        Clock::VirtualRt,
    ];

    /// The time now, in nanoseconds.
    pub fn now_ns(self) -> i64 {
        match self {
            Clock::Realtime | Clock::VirtualRt => read(libc::CLOCK_MONOTONIC),
            Clock::Host => read(libc::CLOCK_REALTIME),
            Clock::Virtual => virtual_now(),
        }
    }

    /// True while the clock advances.
    pub fn is_running(self) -> bool {
        self != Clock::Virtual || VIRTUAL.load(Ordering::Acquire) & TAG == RUNNING
    }
}

/// The monotonic time at the kernel's last clock tick. Ticks come every 1 to 10 ms; reading the time of one is cheap.
pub fn last_tick_ns() -> i64 {
    read(libc::CLOCK_MONOTONIC_COARSE)
}

/// The virtual time. It never goes back: the time of a running clock is returned only if the clock still ran after it was read,
/// and the first thread that finds the clock stopping reads the time at which it stands after that. Lock-free, so a signal
/// handler may interrupt it anywhere.
fn virtual_now() -> i64 {
    loop {
        let state = VIRTUAL.load(Ordering::SeqCst);
        let number = state >> TAG_BITS;
        if state & TAG == STOPPED {
            return number;
        }
        let now = read(libc::CLOCK_MONOTONIC) - number;
        if state & TAG == STOPPING {
            let _ = switch(state, now << TAG_BITS | STOPPED);
        } else if VIRTUAL.load(Ordering::SeqCst) == state {
            return now;
        }
    }
}

fn switch(from: i64, to: i64) -> bool {
    VIRTUAL
        .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
        .is_ok()
}

/// Stops the virtual clock: its timers neither fire nor bound a wait. Idempotent.
pub(crate) fn stop_virtual() {
    let state = VIRTUAL.load(Ordering::SeqCst);
    // If another thread switches the clock meanwhile, that comes first.
    if state & TAG == RUNNING && switch(state, state | STOPPING) {
        virtual_now();
    }
}

/// Lets the virtual clock run on from where it stood. Idempotent; the caller wakes the reactors.
pub(crate) fn start_virtual() {
    let stands_at = virtual_now();
    let offset = Clock::Realtime.now_ns() - stands_at;
    switch(
        stands_at << TAG_BITS | STOPPED,
        offset << TAG_BITS | RUNNING,
    );
}

#[cfg(shuttle)]
fn read(_clock: libc::clockid_t) -> i64 {
    crate::kernel_model::now_ns()
}

#[cfg(not(shuttle))]
fn read(clock: libc::clockid_t) -> i64 {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the buffer is a timespec.
    unsafe { libc::clock_gettime(clock, time.as_mut_ptr()) };
    // SAFETY: clock_gettime cannot fail for these clocks and has filled it.
    let time = unsafe { time.assume_init() };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

#[cfg(test)]
mod tests {
    use super::Clock;

    #[test]
    fn every_clock_advances_or_stands() {
        for clock in Clock::ALL {
            let earlier = clock.now_ns();
            assert!(clock.now_ns() >= earlier, "{clock:?}");
        }
        assert!(Clock::Host.now_ns() > 1_600_000_000_000_000_000);
    }
}
