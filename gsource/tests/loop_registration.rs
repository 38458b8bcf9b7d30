//! Registration from any thread with any lock held, fds that are closed too early, and numbers that are used again.
#![allow(clippy::unwrap_used, clippy::shadow_unrelated)] // a test fails by panicking, and names its steps alike
#![allow(unsafe_code)] // dup(2), close(2)

use gsource::{AioContext, EventNotifier, FdHandler, Reactor, Wait};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use support::deadline::deadline;
use support::loops::{Count, counting_notifier, reuse_number, watched_notifier};
use support::thread::{gettid, wait_asleep};
use support::{both_loops, both_loops_by_file, both_threads};

/// Another number of the same open file.
fn dup(fd: &impl AsRawFd) -> OwnedFd {
    // SAFETY: takes no pointers.
    let number = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0) };
    assert!(number >= 0);
    // SAFETY: the kernel just gave us this fd.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// An eventfd under a number of its own and, by the second fd, kept alive when that number is closed.
fn eventfd_with_dup() -> (OwnedFd, EventNotifier) {
    let notifier = EventNotifier::new().unwrap();
    (dup(&notifier), notifier)
}

both_threads! {
    /// The caller holds the lock that its callbacks take: whatever waits for a callback here deadlocks, and the deadline
    /// ends the test. Hazards 1, 3 and 9 of docs/predecessor-hazards.md.
    fn registering_with_the_lock_held_that_the_callbacks_take(running) {
        let big_lock = Arc::new(Mutex::new(()));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let held = big_lock.lock().unwrap();
                        let notifier = Arc::new(EventNotifier::new().unwrap());
                        let fd = notifier.as_raw_fd();
                        for _ in 0..2 {
                            let (lock, question, taken) =
                                (Arc::clone(&big_lock), Arc::clone(&big_lock), Arc::clone(&notifier));
                            let handler = FdHandler::new()
                                .on_read(move || {
                                    let _held = lock.lock().unwrap();
                                    taken.take();
                                })
                                .read_poll(move || {
                                    drop(question.lock().unwrap());
                                    true
                                });
                            running.aio.set_fd_handler(fd, handler).unwrap();
                            notifier.signal();
                        }
                        let lock = Arc::clone(&big_lock);
                        let bh = running.aio.bh("test", move || drop(lock.lock().unwrap()));
                        let lock = Arc::clone(&big_lock);
                        let timer = running.aio.timer(gsource::Clock::Realtime, move || drop(lock.lock().unwrap()));
                        bh.schedule();
                        timer.arm_at_ns(0);
                        drop(held);
                        std::thread::yield_now();
                        let held = big_lock.lock().unwrap();
                        drop((bh, timer));
                        assert!(running.aio.remove_fd_handler(fd));
                        drop(held);
                    }
                });
            }
        });
        // The next handler under this number is called, no matter what is left of this one.
        let (notifier, count) = watched_notifier(&running.aio);
        notifier.signal();
        while count.get() == 0 {
            std::thread::yield_now();
        }
    }

    /// The fd stays readable all the time; after a removal and a wait for the home thread there is no more call.
    fn no_callback_begins_after_the_removal_has_returned(running) {
        let notifier = Arc::new(EventNotifier::new().unwrap());
        notifier.signal();
        for _ in 0..300 {
            let (removed, late) = (Arc::new(AtomicBool::new(false)), Count::new());
            let (seen, hit) = (Arc::clone(&removed), late.clone());
            let handler = FdHandler::new().on_read(move || {
                if seen.load(Ordering::SeqCst) {
                    hit.hit();
                }
            });
            running.aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
            std::thread::yield_now();
            assert!(running.aio.remove_fd_handler(notifier.as_raw_fd()));
            // A call that had begun has returned when this one runs.
            running.on_home(|| ());
            removed.store(true, Ordering::SeqCst);
            running.on_home(|| ());
            assert_eq!(late.get(), 0);
        }
    }

    /// The number is closed and used again at once, many times, while other threads do the same: no callback may be called
    /// for the file of another one.
    fn numbers_used_again_at_once_by_many_threads_meet_the_right_callback(running) {
        let wrong = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let (notifier, count, handler) = counting_notifier();
                        running.aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
                        let ghost = dup(&*notifier);
                        if count.get() != 0 {
                            wrong.fetch_add(1, Ordering::SeqCst);
                        }
                        assert!(running.aio.remove_fd_handler(notifier.as_raw_fd()));
                        notifier.signal();
                        drop(notifier);
                        drop(ghost);
                    }
                });
            }
        });
        running.on_home(|| ());
        assert_eq!(wrong.load(Ordering::SeqCst), 0);
    }

    fn handlers_added_changed_and_removed_by_eight_threads_end_in_silence(running) {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let (notifier, count, _) = counting_notifier();
                    for round in 0..300 {
                        let (taken, hit) = (Arc::clone(&notifier), count.clone());
                        let handler = FdHandler::new().on_read(move || {
                            if taken.take() {
                                hit.hit();
                            }
                        });
                        running.aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
                        let before = count.get();
                        notifier.signal();
                        while round % 10 == 0 && count.get() == before {
                            std::thread::yield_now();
                        }
                        running.aio.remove_fd_handler(notifier.as_raw_fd());
                    }
                });
            }
        });
        running.on_home(|| ());
    }
}

both_loops! {
    // Hazard 5 of docs/predecessor-hazards.md: the number is reused while the loop still polls it.
    fn removed_closed_and_reused_while_a_dup_stays_readable(driven) {
        driven.settle();
        for _ in 0..5 {
            let (number, alive) = eventfd_with_dup();
            let old = Count::new();
            driven.aio.set_fd_handler(number.as_raw_fd(), FdHandler::new().on_read(old.hitter())).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| assert!(driven.aio.remove_fd_handler(number.as_raw_fd())));
            });
            let fresh = EventNotifier::new().unwrap();
            reuse_number(number.as_raw_fd(), &fresh);
            alive.signal();
            let new = Count::new();
            let (taken, hit) = (dup(&fresh), new.hitter());
            let taken = EventNotifier::from_fd(taken);
            let handler = FdHandler::new().on_read(move || {
                taken.take();
                hit();
            });
            driven.aio.set_fd_handler(number.as_raw_fd(), handler).unwrap();
            driven.settle();
            assert_eq!((old.get(), new.get()), (0, 0));
            assert_eq!(driven.wakeups_in(5), 0, "the old file must not wake us");
            fresh.signal();
            driven.until(|| new.get() == 1);
            driven.aio.remove_fd_handler(number.as_raw_fd());
        }
    }

    // Hazard 5 of docs/predecessor-hazards.md: a record that is brought back with stale events.
    fn readded_handler_does_not_see_events_of_its_former_life(driven) {
        let notifier = EventNotifier::new().unwrap();
        let (first, second) = (Count::new(), Count::new());
        driven.aio.set_fd_handler(notifier.as_raw_fd(), FdHandler::new().on_read(first.hitter())).unwrap();
        notifier.signal();
        assert!(driven.iterate(Wait::Block));
        driven.aio.remove_fd_handler(notifier.as_raw_fd());
        notifier.take();
        driven.aio.set_fd_handler(notifier.as_raw_fd(), FdHandler::new().on_read(second.hitter())).unwrap();
        driven.settle();
        assert_eq!((first.get(), second.get()), (1, 0));
    }

    fn several_ghosts_at_once_do_not_spin(driven) {
        let (keeper, kept) = watched_notifier(&driven.aio);
        let ghosts: Vec<_> = (0..100).map(|_| eventfd_with_dup()).collect();
        let mut alive = Vec::new();
        let calls = Count::new();
        for (number, file) in ghosts {
            let number = number.into_raw_fd();
            driven.aio.set_fd_handler(number, FdHandler::new().on_read(calls.hitter())).unwrap();
            driven.settle();
            close(number);
            driven.aio.remove_fd_handler(number);
            alive.push(file);
        }
        for count in [2, 3, 100] {
            alive[..count].iter().for_each(EventNotifier::signal);
            driven.settle();
            assert!(driven.wakeups_in(10) <= 4, "{count} ghosts");
        }
        keeper.signal();
        driven.until(|| kept.get() == 1);
        assert_eq!(calls.get(), 0);
    }

    fn always_ready_file_replaced_under_its_number_is_forgotten(driven) {
        let (file, (notifier, _, _)) = (std::fs::File::open("/dev/null").unwrap(), counting_notifier());
        let calls = Count::new();
        driven.aio.set_fd_handler(file.as_raw_fd(), FdHandler::new().on_read(calls.hitter())).unwrap();
        assert!(driven.iterate(Wait::Block));
        reuse_number(file.as_raw_fd(), &*notifier);
        driven.aio.set_fd_handler(file.as_raw_fd(), FdHandler::new().on_read(calls.hitter())).unwrap();
        driven.settle();
        assert_eq!(calls.get(), 1);
        assert_eq!(driven.wakeups_in(5), 0);
        driven.aio.remove_fd_handler(file.as_raw_fd());
    }

    fn handler_set_again_after_its_number_changed_hands_watches_the_new_file(driven) {
        let (number, alive) = eventfd_with_dup();
        let (old, new, fresh) = (Count::new(), Count::new(), EventNotifier::new().unwrap());
        driven.aio.set_fd_handler(number.as_raw_fd(), FdHandler::new().on_read(old.hitter())).unwrap();
        driven.settle();
        reuse_number(number.as_raw_fd(), &fresh);
        driven.aio.set_fd_handler(number.as_raw_fd(), FdHandler::new().on_read(new.hitter())).unwrap();
        alive.signal();
        driven.settle();
        assert!(driven.wakeups_in(5) <= 3);
        assert_eq!((old.get(), new.get()), (0, 0));
        fresh.signal();
        assert!(driven.iterate(Wait::Block));
        assert_eq!((old.get(), new.get()), (0, 1));
        driven.aio.remove_fd_handler(number.as_raw_fd());
    }
}

// What poll(2) does with a closed number is in loop_closed_fd.rs: other tests may have opened it again.
both_loops_by_file! {
    // Hazard 5 of docs/predecessor-hazards.md: a closed fd that is still in the set.
    fn fd_closed_under_its_handler_does_not_spin(driven) {
        let (notifier, calls, handler) = counting_notifier();
        let number = dup(&*notifier).into_raw_fd();
        drop(notifier);
        driven.aio.set_fd_handler(number, handler).unwrap();
        driven.settle();
        close(number);
        assert_eq!(driven.wakeups_in(10), 0);
        driven.aio.remove_fd_handler(number);
        driven.settle();
        assert_eq!(calls.get(), 0);
    }

    /// The file lives on by its dup, so the kernel goes on reporting it, and cannot be told to stop by the closed number.
    fn fd_closed_under_its_handler_while_a_dup_stays_readable_is_silent_once_removed(driven) {
        let (number, alive) = eventfd_with_dup();
        let number = number.into_raw_fd();
        let calls = Count::new();
        driven.aio.set_fd_handler(number, FdHandler::new().on_read(calls.hitter())).unwrap();
        driven.settle();
        close(number);
        alive.signal();
        assert!(driven.iterate(Wait::Block));
        assert_eq!(calls.get(), 1, "registered is registered");
        driven.aio.remove_fd_handler(number);
        driven.settle();
        assert!(driven.wakeups_in(10) <= 3, "the ghost is thrown out");
        assert_eq!(calls.get(), 1);
    }
}

fn close(number: RawFd) {
    // SAFETY: the test owns the number, and nothing else closes it.
    assert_eq!(unsafe { libc::close(number) }, 0);
}

/// What was registered before the first iteration is handed to the kernel then; one closed fd must not spoil the rest.
#[test]
fn fd_closed_before_the_first_iteration_spoils_nothing() {
    let _deadline = deadline("fd_closed_before_the_first_iteration_spoils_nothing");
    let aio = AioContext::new().unwrap();
    let number = EventNotifier::new()
        .map(|notifier| dup(&notifier))
        .unwrap()
        .into_raw_fd();
    aio.set_fd_handler(number, FdHandler::new().on_read(|| ()))
        .unwrap();
    let (notifier, count) = watched_notifier(&aio);
    close(number);
    notifier.signal();
    while count.get() == 0 {
        aio.poll(Wait::Block).unwrap();
    }
    std::thread::scope(|scope| {
        let tid = gettid();
        let notify = aio.clone();
        scope.spawn(move || {
            wait_asleep(tid);
            notify.notify();
        });
        aio.poll(Wait::Block).unwrap();
    });
}

#[test]
fn context_with_a_closed_fd_can_be_moved() {
    let reactor = Reactor::new().unwrap();
    let aio = AioContext::new().unwrap();
    let number = EventNotifier::new()
        .map(|notifier| dup(&notifier))
        .unwrap()
        .into_raw_fd();
    aio.set_fd_handler(number, FdHandler::new().on_read(|| ()))
        .unwrap();
    let (notifier, count) = watched_notifier(&aio);
    aio.poll(Wait::NoBlock).unwrap();
    close(number);
    aio.attach_to(&reactor).unwrap();
    notifier.signal();
    assert!(reactor.iterate(Wait::Block).unwrap());
    aio.detach().unwrap();
    notifier.signal();
    assert!(aio.poll(Wait::Block).unwrap());
    assert_eq!(count.get(), 2);
}

/// A home that sleeps sees a new handler through the kernel; nothing else needs to wake it.
#[test]
fn adding_a_handler_from_another_thread_wakes_nobody() {
    let _deadline = deadline("adding_a_handler_from_another_thread_wakes_nobody");
    let aio = AioContext::new().unwrap();
    let notifier = EventNotifier::new().unwrap();
    let timer = aio.timer(gsource::Clock::Realtime, || ());
    timer.arm_in_ns(50_000_000);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let handler = FdHandler::new().on_read(|| panic!("never signalled"));
            aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
        });
        assert!(
            aio.poll(Wait::Block).unwrap(),
            "only the timer ends the wait"
        );
    });
    assert!(!timer.is_armed());
}
