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
    /// Monotonic time, for those who drive virtual time.
    VirtualRt,
}

/// The number of clocks; `Clock as usize` is below it.
pub(crate) const CLOCKS: usize = 4;

/// Running: virtual = realtime - offset, stored here. Stopped: see [`STOPPED_AT`].
static VIRTUAL_OFFSET: AtomicI64 = AtomicI64::new(0);
/// The virtual time at which the clock stands still, or -1 while it runs.
static STOPPED_AT: AtomicI64 = AtomicI64::new(-1);

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
            Clock::Virtual => match STOPPED_AT.load(Ordering::Acquire) {
                -1 => read(libc::CLOCK_MONOTONIC) - VIRTUAL_OFFSET.load(Ordering::Acquire),
                stopped_at => stopped_at,
            },
        }
    }

    /// True while the clock advances.
    pub fn is_running(self) -> bool {
        self != Clock::Virtual || STOPPED_AT.load(Ordering::Acquire) == -1
    }
}

/// The monotonic time at the kernel's last clock tick, which come every 1 to 10 ms: reading it is cheap.
pub fn last_tick_ns() -> i64 {
    read(libc::CLOCK_MONOTONIC_COARSE)
}

/// Stops the virtual clock: its timers neither fire nor bound a wait. Idempotent.
pub(crate) fn stop_virtual() {
    let now = Clock::Virtual.now_ns();
    let _ = STOPPED_AT.compare_exchange(-1, now, Ordering::AcqRel, Ordering::Acquire);
}

/// Lets the virtual clock run on from where it stood. Idempotent; the caller wakes the reactors.
pub(crate) fn start_virtual() {
    let stopped_at = STOPPED_AT.load(Ordering::Acquire);
    if stopped_at != -1 {
        VIRTUAL_OFFSET.store(Clock::Realtime.now_ns() - stopped_at, Ordering::Release);
        STOPPED_AT.store(-1, Ordering::Release);
    }
}

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
