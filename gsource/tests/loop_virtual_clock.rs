//! Stopping, starting, setting and stepping the virtual clock. It is one for the process, so these tests are a program of their own.
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::shadow_unrelated)] // a test fails by panicking, and names its steps alike

use gsource::{Clock, Wait};
use gsource::{
    deadline_ns, set_virtual_clock, start_virtual_clock, step_virtual_clock, stop_virtual_clock,
};
use std::sync::{Mutex, MutexGuard, PoisonError};
use support::both_loops;
use support::loops::{Count, Journal};
use support::thread::{gettid, wait_asleep};

/// One test at a time stops the clock; it runs again afterwards.
struct Stopping(#[allow(dead_code)] MutexGuard<'static, ()>);

fn stopping() -> Stopping {
    static ONE: Mutex<()> = Mutex::new(());
    Stopping(ONE.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Drop for Stopping {
    fn drop(&mut self) {
        start_virtual_clock();
    }
}

both_loops! {
    fn stopped_virtual_clock_stands_still_and_goes_on_from_there(driven) {
        let _one = stopping();
        stop_virtual_clock();
        stop_virtual_clock();
        let stood = Clock::Virtual.now_ns();
        driven.wakeups_in(2);
        assert_eq!(Clock::Virtual.now_ns(), stood);
        assert!(!Clock::Virtual.is_running());
        start_virtual_clock();
        start_virtual_clock();
        assert!(Clock::Virtual.now_ns() - stood < Clock::Realtime.now_ns());
        assert!(Clock::Virtual.now_ns() >= stood);
    }

    fn timer_of_a_stopped_clock_neither_fires_nor_bounds_the_wait(driven) {
        let _one = stopping();
        let count = Count::new();
        let timer = driven.aio.timer(Clock::Virtual, count.hitter());
        timer.arm_in_ns(3_600_000_000_000);
        stop_virtual_clock();
        driven.settle();
        assert_eq!(driven.aio.timeout_ns().unwrap(), None);
        // Armed while it stands: before, the time might come first.
        timer.arm_in_ns(1_000_000);
        driven.settle();
        assert_eq!(driven.wakeups_in(10), 0);
        timer.arm_at_ns(0);
        driven.settle();
        assert_eq!(driven.wakeups_in(10), 0);
        assert_eq!(count.get(), 0);
        start_virtual_clock();
        driven.until(|| count.get() == 1);
    }

    fn starting_the_clock_wakes_a_sleeping_loop(driven) {
        let _one = stopping();
        stop_virtual_clock();
        let (count, tid) = (Count::new(), gettid());
        let timer = driven.aio.timer(Clock::Virtual, count.hitter());
        timer.arm_in_ns(1_000);
        driven.settle();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                wait_asleep(tid);
                start_virtual_clock();
            });
            driven.until(|| count.get() == 1);
        });
    }

    fn sleeps_end_in_order_and_not_early(driven) {
        let _one = stopping();
        stop_virtual_clock();
        let (journal, begin) = (Journal::new(), Clock::Virtual.now_ns());
        let tasks = [("c", 3), ("a", 1), ("b", 2)].map(|(name, ms)| {
            let (aio, note) = (driven.aio.clone(), journal.noter(name));
            driven.aio.spawn_local(async move {
                let deadline = begin + ms * 1_000_000;
                aio.sleep_until_ns(Clock::Virtual, deadline).await;
                note();
                Clock::Virtual.now_ns() - deadline
            }).unwrap()
        });
        // All of them sleep before the first can end.
        driven.settle();
        assert_eq!(journal.text(), "");
        start_virtual_clock();
        driven.until(|| tasks.iter().all(gsource::JoinHandle::is_finished));
        for task in &tasks {
            assert!(task.try_take().unwrap().unwrap() >= 0);
        }
        assert_eq!(journal.text(), "a b c");
    }

    fn setting_the_clock_fires_what_is_due_in_a_sleeping_loop(driven) {
        let _one = stopping();
        let (count, tid) = (Count::new(), gettid());
        let timer = driven.aio.timer(Clock::Virtual, count.hitter());
        timer.arm_in_ns(3_600_000_000_000);
        let deadline = timer.deadline_ns().unwrap();
        driven.settle();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                wait_asleep(tid);
                set_virtual_clock(deadline).unwrap();
            });
            driven.until(|| count.get() == 1);
        });
    }

    fn stepped_clock_stands_between_steps_and_fires_what_is_due(driven) {
        let _one = stopping();
        stop_virtual_clock();
        set_virtual_clock(1_000).unwrap();
        let count = Count::new();
        let (due, later) = (
            driven.aio.timer(Clock::Virtual, count.hitter()),
            driven.aio.timer(Clock::Virtual, || panic!("not due")),
        );
        due.arm_at_ns(1_500);
        later.arm_at_ns(2_001);
        assert_eq!(deadline_ns(Clock::Virtual), Some(500));
        // Setting a stopped clock does not fire timers.
        set_virtual_clock(1_600).unwrap();
        driven.settle();
        assert_eq!((count.get(), deadline_ns(Clock::Virtual)), (0, Some(0)));
        let mut stops = Vec::new();
        step_virtual_clock(400, || stops.push(Clock::Virtual.now_ns())).unwrap();
        assert_eq!(stops, [2_000]);
        driven.until(|| count.get() == 1);
        assert_eq!(driven.aio.timeout_ns().unwrap(), None, "time does not pass");
        assert!(!Clock::Virtual.is_running());
        driven.settle();
        stop_virtual_clock();
        due.arm_at_ns(0);
        driven.settle();
        assert_eq!(count.get(), 1, "stopped again");
    }

    fn stopping_the_clock_leaves_the_other_clocks_alone(driven) {
        let _one = stopping();
        stop_virtual_clock();
        let count = Count::new();
        let timer = driven.aio.timer(Clock::VirtualRt, count.hitter());
        timer.arm_in_ns(500_000);
        driven.until(|| count.get() == 1);
        assert!(!driven.iterate(Wait::NoBlock));
    }
}

#[test]
fn step_stops_at_each_deadline_and_counts_what_is_armed_meanwhile() {
    let _one = stopping();
    stop_virtual_clock();
    set_virtual_clock(0).unwrap();
    let aio = gsource::AioContext::new().unwrap();
    let timer = aio.timer(Clock::Virtual, || ());
    timer.arm_at_ns(10);
    let mut stops = Vec::new();
    let rearm = || {
        stops.push(Clock::Virtual.now_ns());
        timer.arm_in_ns(10);
    };
    step_virtual_clock(35, rearm).unwrap();
    assert_eq!(stops, [10, 20, 30, 35]);
    assert_eq!(deadline_ns(Clock::Virtual), Some(10));
}

#[test]
fn times_out_of_range_change_nothing() {
    let _one = stopping();
    stop_virtual_clock();
    set_virtual_clock(7).unwrap();
    for time in [-1, i64::MIN, i64::MAX, (1 << 59) + 1] {
        assert!(set_virtual_clock(time).is_err(), "{time}");
        assert!(step_virtual_clock(time, || ()).is_err(), "{time}");
    }
    assert_eq!(Clock::Virtual.now_ns(), 7);
    set_virtual_clock(1 << 59).unwrap();
    assert_eq!(Clock::Virtual.now_ns(), 1 << 59);
    start_virtual_clock();
    assert!(Clock::Virtual.now_ns() >= 1 << 59);
    set_virtual_clock(0).unwrap();
}

#[test]
fn virtual_clock_that_is_switched_all_the_time_never_goes_back() {
    const READS: usize = 3_000_000;
    let _one = stopping();
    let over = Count::new();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while over.get() == 0 {
                    stop_virtual_clock();
                    start_virtual_clock();
                }
            });
        }
        let mut last = Clock::Virtual.now_ns();
        let mut back = 0;
        for _ in 0..READS {
            let now = Clock::Virtual.now_ns();
            back += usize::from(now < last);
            last = now;
        }
        over.hit();
        assert_eq!(back, 0, "times of {READS}");
    });
}
