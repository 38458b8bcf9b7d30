//! The four clocks timers run on, in nanoseconds.
//!
//! | clock | time base |
//! |---|---|
//! | realtime | `CLOCK_MONOTONIC` |
//! | virtual | 0 when the program starts, then as realtime, but it stands still while stopped, and can be set |
//! | host | `CLOCK_REALTIME`, the wall clock |
//! | virtual-rt | realtime; kept apart for callers that schedule virtual time itself |
//!
//! The wall clock can be set. The home reads it before each wait, and the wait takes the time that is left then: if the clock is set
//! while the home sleeps and nothing else wakes it, a timer of the host clock fires that much too late, or is looked at too early
//! and waited for again. A program that must notice watches a timerfd with `TFD_TIMER_CANCEL_ON_SET` in a handler.
//!
//! # Threads
//! Everything here is callable from any thread; reading a clock is async-signal-safe.
#![allow(unsafe_code)] // clock_gettime(2), and a function that runs at the start

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicI64, Ordering};

/// A time base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Monotonic time since boot.
    Realtime,
    /// Monotonic time since the program has started, which stands still while the machine is stopped, and can be set.
    Virtual,
    /// The wall clock, which can jump. A wait that has begun does not notice: it ends when the time has passed that was
    /// left when it began.
    Host,
    /// Monotonic time, for callers that schedule virtual time themselves.
    VirtualRt,
}

/// The number of clocks; `Clock as usize` is below it.
pub(crate) const CLOCKS: usize = 4;

/// What the virtual clock does, in one word: a tag in the low bits, a number of nanoseconds above them. Each run of a model
/// begins with the same clocks, so there it runs from the beginning.
static VIRTUAL: AtomicI64 = AtomicI64::new(if cfg!(shuttle) { RUNNING } else { NEW });

/// The number is realtime - virtual.
const RUNNING: i64 = 0;
/// As for running, but the next thread that reads the clock stops it.
const STOPPING: i64 = 1;
/// The number is the time at which the clock stands, and no timer fires.
const STOPPED: i64 = 2;
/// As stopped, but timers that are due fire: a test steps the clock.
const STEPPED: i64 = 3;
/// The first thread that uses the clock lets it run from 0. [`AT_START`] is the first, if the linker has kept it.
const NEW: i64 = 4;
const TAG_BITS: u32 = 3;
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
        self != Clock::Virtual || matches!(virtual_tag(), RUNNING | NEW)
    }

    /// True while timers of the clock fire.
    pub(crate) fn fires_timers(self) -> bool {
        self != Clock::Virtual || !matches!(virtual_tag(), STOPPING | STOPPED)
    }
}

fn virtual_tag() -> i64 {
    VIRTUAL.load(Ordering::Acquire) & TAG
}

/// The monotonic time at the kernel's last clock tick. Ticks come every 1 to 10 ms; reading the time of one is cheap.
pub fn last_tick_ns() -> i64 {
    read(libc::CLOCK_MONOTONIC_COARSE)
}

/// The virtual time. It never goes back by itself: the time of a running clock is returned only if the clock still ran after it was
/// read, and the first thread that finds the clock stopping reads the time at which it stands after that. Lock-free, so a signal
/// handler may interrupt it anywhere.
fn virtual_now() -> i64 {
    loop {
        let state = begun();
        let number = state >> TAG_BITS;
        if matches!(state & TAG, STOPPED | STEPPED) {
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

/// The state of a clock that has begun to run.
fn begun() -> i64 {
    let state = VIRTUAL.load(Ordering::SeqCst);
    if state & TAG != NEW {
        return state;
    }
    let running = read(libc::CLOCK_MONOTONIC) << TAG_BITS | RUNNING;
    switch(NEW, running);
    VIRTUAL.load(Ordering::SeqCst)
}

/// Runs before `main`, or when the library is loaded.
#[used]
#[cfg(not(any(loom, shuttle)))]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = {
    extern "C" fn begin() {
        begun();
    }
    begin
};

fn switch(from: i64, to: i64) -> bool {
    VIRTUAL
        .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
        .is_ok()
}

/// Stops the virtual clock: its timers neither fire nor bound a wait. Idempotent.
pub(crate) fn stop_virtual() {
    let state = begun();
    // If another thread switches the clock meanwhile, that comes first.
    match state & TAG {
        RUNNING if switch(state, state | STOPPING) => {
            virtual_now();
        }
        STEPPED => {
            switch(state, state & !TAG | STOPPED);
        }
        _ => {}
    }
}

/// Lets the virtual clock run on from where it stood. Idempotent; the caller wakes the reactors.
pub(crate) fn start_virtual() {
    let stands_at = virtual_now();
    let offset = Clock::Realtime.now_ns() - stands_at;
    for tag in [STOPPED, STEPPED] {
        switch(stands_at << TAG_BITS | tag, offset << TAG_BITS | RUNNING);
    }
}

/// Sets the clock to `ns`. It runs on or stands still as before. The caller wakes the reactors.
pub(crate) fn set_virtual(ns: i64) {
    change_virtual(|_, tag| (ns, tag));
}

/// Sets the clock to `ns` unless that is past. If it is stopped, its due timers fire from now on. The caller wakes the reactors.
pub(crate) fn step_virtual(ns: i64) {
    let stepped = |tag| if tag == STOPPED { STEPPED } else { tag };
    change_virtual(|now, tag| (now.max(ns), stepped(tag)));
}

/// `change` makes the new time and the new tag of a clock from the old ones.
fn change_virtual(change: impl Fn(i64, i64) -> (i64, i64)) {
    loop {
        // Completes a stop.
        virtual_now();
        let state = begun();
        let (number, tag) = (state >> TAG_BITS, state & TAG);
        let to = if tag == RUNNING {
            let realtime = read(libc::CLOCK_MONOTONIC);
            let (time, tag) = change(realtime - number, tag);
            (realtime - time) << TAG_BITS | tag
        } else {
            let (time, tag) = change(number, tag);
            time << TAG_BITS | tag
        };
        if tag != STOPPING && switch(state, to) {
            return;
        }
    }
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
