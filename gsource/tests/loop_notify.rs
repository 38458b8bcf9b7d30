//! `notify`: ends a wait, is no progress, leaves nothing behind.
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::shadow_unrelated)] // a test fails by panicking, and names its steps alike

use gsource::{Clock, Wait};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use support::both_loops;
use support::deadline::deadline;
use support::loops::{Count, Driven, Loop, watched_notifier};
use support::thread::{gettid, wait_asleep};

both_loops! {
    fn notify_before_a_blocking_iteration_ends_it(driven) {
        driven.settle();
        driven.aio.notify();
        driven.iterate(Wait::Block);
        assert!(!driven.iterate(Wait::NoBlock));
    }

    fn notify_alone_is_no_progress(driven) {
        driven.aio.notify();
        assert!(!driven.iterate(Wait::NoBlock));
        driven.aio.notify();
        assert!(!driven.iterate(Wait::Block));
    }

    fn notify_during_a_blocking_iteration_ends_it(driven) {
        driven.settle();
        std::thread::scope(|scope| {
            let tid = gettid();
            scope.spawn(move || {
                wait_asleep(tid);
                driven.aio.notify();
            });
            driven.iterate(Wait::Block);
        });
        driven.settle();
    }

    fn many_notifications_end_one_wait(driven) {
        for _ in 0..100 {
            driven.aio.notify();
        }
        driven.settle();
        assert_eq!(driven.wakeups_in(5), 0);
    }

    // Hazards 4 and 25 of docs/predecessor-hazards.md: a constant poll interval, and a wait that returns because no handler is busy.
    fn a_loop_with_nothing_to_do_never_wakes_up(driven) {
        let (_notifier, count) = watched_notifier(&driven.aio);
        driven.settle();
        assert_eq!(driven.wakeups_in(60), 0);
        assert_eq!(count.get(), 0);
    }

    fn notifications_against_a_loop_that_falls_asleep_are_never_lost(driven) {
        let (asked, answered, over) = (Count::new(), Count::new(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=3000 {
                    asked.hit();
                    driven.aio.notify();
                    while answered.get() < round {
                        std::thread::yield_now();
                    }
                }
                over.store(true, Ordering::SeqCst);
                driven.aio.notify();
            });
            while !over.load(Ordering::SeqCst) {
                driven.iterate(Wait::Block);
                while answered.get() < asked.get() {
                    answered.hit();
                }
            }
        });
    }
}

#[test]
fn notification_is_consumed_by_an_iteration_that_does_not_wait() {
    let driven = Driven::new(Loop::Own);
    let count = Count::new();
    let timer = driven.aio.timer(Clock::Realtime, count.hitter());
    driven.aio.notify();
    assert!(!driven.iterate(Wait::NoBlock));
    timer.arm_in_ns(2_000_000);
    assert!(driven.iterate(Wait::Block), "one wait, not cut short");
}

// Hazard 12 of docs/predecessor-hazards.md: iterating a context that another thread drives.
#[test]
fn only_one_thread_drives_at_a_time() {
    let _deadline = deadline("only_one_thread_drives_at_a_time");
    let aio = gsource::AioContext::new().unwrap();
    let (driving, in_callback) = channel();
    let (go, wait) = channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    aio.schedule_oneshot("test", move || {
        driving.send(()).unwrap();
        wait.lock().unwrap().recv().unwrap();
    });
    std::thread::scope(|scope| {
        scope.spawn(|| aio.poll(Wait::NoBlock).unwrap());
        in_callback.recv().unwrap();
        let error = aio.poll(Wait::NoBlock).unwrap_err();
        assert_eq!(error.kind(), gsource::ErrorKind::WrongThread);
        assert!(!aio.is_home());
        go.send(()).unwrap();
    });
    assert!(!aio.poll(Wait::NoBlock).unwrap());
}
