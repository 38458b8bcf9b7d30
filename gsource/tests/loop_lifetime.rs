//! Who destroys what, when, on which thread: destroy notifies, the end of a context, attaching and detaching.
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::shadow_unrelated)] // a test fails by panicking, and names its steps alike

use gsource::{AioContext, Bh, Clock, EventNotifier, FdHandler, Reactor, Wait};
use std::os::fd::AsRawFd;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use support::deadline::deadline;
use support::loops::{Count, Slot, drop_probe, probed_handler};
use support::{both_loops, both_threads};

both_loops! {
    fn removed_handler_is_destroyed_once_by_the_loop(driven) {
        let (notifier, handler, drops) = probed_handler();
        driven.aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
        driven.settle();
        driven.aio.remove_fd_handler(notifier.as_raw_fd());
        driven.settle();
        assert_eq!(drops.threads(), [std::thread::current().id()]);
    }

    fn replaced_handler_is_destroyed_once_by_the_loop(driven) {
        let (notifier, handler, drops) = probed_handler();
        driven.aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
        driven.aio.set_fd_handler(notifier.as_raw_fd(), FdHandler::new().on_read(|| ())).unwrap();
        driven.settle();
        assert_eq!(drops.threads().len(), 1);
    }

    fn handler_removed_in_its_own_callback_is_destroyed_after_it(driven) {
        let (notifier, (probe, drops)) = (EventNotifier::new().unwrap(), drop_probe());
        let (aio, fd, drops) = (Slot::new(), notifier.as_raw_fd(), Arc::new(Mutex::new(drops)));
        let seen = Arc::clone(&drops);
        aio.put(driven.aio.clone());
        let handler = FdHandler::new().on_read(move || {
            probe.touch();
            let aio: AioContext = aio.take().unwrap();
            aio.remove_fd_handler(fd);
            assert!(seen.lock().unwrap().threads().is_empty(), "destroyed while it runs");
        });
        driven.aio.set_fd_handler(fd, handler).unwrap();
        notifier.signal();
        driven.settle();
        assert_eq!(drops.lock().unwrap().threads(), [std::thread::current().id()]);
    }

    fn handler_removed_inside_a_nested_iteration_is_destroyed_after_the_outer_call(driven) {
        let (notifier, (probe, drops)) = (EventNotifier::new().unwrap(), drop_probe());
        let (nested, fd, drops) = (driven.nested(), notifier.as_raw_fd(), Arc::new(Mutex::new(drops)));
        let seen = Arc::clone(&drops);
        let aio = Slot::new();
        aio.put(driven.aio.clone());
        let handler = FdHandler::new().on_read(move || {
            probe.touch();
            let inner: AioContext = aio.take().unwrap();
            let same = inner.clone();
            inner.schedule_oneshot("remove", move || {
                assert!(same.remove_fd_handler(fd));
            });
            drop(inner);
            nested(Wait::NoBlock);
            nested(Wait::NoBlock);
            assert!(seen.lock().unwrap().threads().is_empty(), "destroyed while it runs");
        });
        driven.aio.set_fd_handler(fd, handler).unwrap();
        notifier.signal();
        driven.settle();
        assert_eq!(drops.lock().unwrap().threads().len(), 1);
    }

    fn handler_removed_by_its_own_read_poll_is_destroyed(driven) {
        let (notifier, (probe, drops), aio) = (EventNotifier::new().unwrap(), drop_probe(), Slot::new());
        let (fd, reads) = (notifier.as_raw_fd(), Count::new());
        aio.put(driven.aio.clone());
        let handler = FdHandler::new().on_read(reads.hitter()).read_poll(move || {
            probe.touch();
            let aio: AioContext = aio.take().unwrap();
            aio.remove_fd_handler(fd)
        });
        driven.aio.set_fd_handler(fd, handler).unwrap();
        notifier.signal();
        driven.settle();
        assert_eq!((reads.get(), drops.threads().len()), (0, 1));
    }

    fn destructor_may_register_remove_and_schedule(driven) {
        struct Registers(Option<AioContext>, i32, Count);
        impl Drop for Registers {
            fn drop(&mut self) {
                let aio = self.0.take().unwrap();
                aio.set_fd_handler(self.1, FdHandler::new().on_read(self.2.hitter())).unwrap();
                let hit = self.2.hitter();
                aio.schedule_oneshot("from a destructor", hit);
            }
        }
        let (first, second, count) = (EventNotifier::new().unwrap(), EventNotifier::new().unwrap(), Count::new());
        let registers = Registers(Some(driven.aio.clone()), second.as_raw_fd(), count.clone());
        let handler = FdHandler::new().on_read(move || {
            let _ = &registers;
        });
        driven.aio.set_fd_handler(first.as_raw_fd(), handler).unwrap();
        driven.aio.remove_fd_handler(first.as_raw_fd());
        driven.settle();
        assert_eq!(count.get(), 1, "the bottom half");
        second.signal();
        assert!(driven.iterate(Wait::Block));
        assert_eq!(count.get(), 2, "the handler");
        driven.aio.remove_fd_handler(second.as_raw_fd());
    }
}

both_threads! {
    // Hazard 10 of docs/predecessor-hazards.md: a removal that does not reach a sleeping loop.
    fn handler_removed_by_another_thread_is_destroyed_at_home_by_a_sleeping_loop(running) {
        for _ in 0..20 {
            let (notifier, handler, drops) = probed_handler();
            running.aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
            running.wait_asleep();
            assert!(running.aio.remove_fd_handler(notifier.as_raw_fd()));
            assert_eq!(drops.wait(), running.home);
        }
    }

    fn handler_removed_by_another_thread_while_it_runs_is_destroyed_after_the_call(running) {
        let (notifier, (probe, drops)) = (EventNotifier::new().unwrap(), drop_probe());
        let (began, begun) = channel();
        let (end, go_on) = channel::<()>();
        let go_on = Mutex::new(go_on);
        let handler = FdHandler::new().on_read(move || {
            probe.touch();
            began.send(()).unwrap();
            go_on.lock().unwrap().recv().unwrap();
        });
        running.aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
        notifier.signal();
        begun.recv().unwrap();
        assert!(running.aio.remove_fd_handler(notifier.as_raw_fd()));
        assert!(drops.threads().is_empty());
        end.send(()).unwrap();
        assert_eq!(drops.wait(), running.home);
        assert!(drops.threads().is_empty(), "once");
    }

    fn timer_dropped_by_another_thread_is_destroyed_at_home_by_a_sleeping_loop(running) {
        for _ in 0..20 {
            let (probe, drops) = drop_probe();
            let timer = running.aio.timer(Clock::Realtime, move || probe.touch());
            running.wait_asleep();
            drop(timer);
            assert_eq!(drops.wait(), running.home);
        }
    }
}

#[test]
fn context_that_nobody_drives_is_destroyed_where_its_last_handle_goes() {
    let _deadline = deadline("context_that_nobody_drives");
    let aio = AioContext::new().unwrap();
    let (notifier, handler, handler_end) = probed_handler();
    let ((in_bh, bh_end), (in_timer, timer_end), (in_oneshot, oneshot_end)) =
        (drop_probe(), drop_probe(), drop_probe());
    aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
    let bh = aio.bh("test", move || in_bh.touch());
    let timer = aio.timer(Clock::Realtime, move || in_timer.touch());
    aio.schedule_oneshot("test", move || in_oneshot.touch());
    bh.schedule();
    timer.arm_at_ns(0);
    drop((bh, timer));
    let thread = std::thread::spawn(move || drop(aio));
    let id = thread.thread().id();
    thread.join().unwrap();
    for end in [handler_end, bh_end, timer_end, oneshot_end] {
        assert_eq!(end.threads(), [id]);
    }
}

#[test]
fn handles_outlive_their_context() {
    let aio = AioContext::new().unwrap();
    let count = Count::new();
    let (in_bh, bh_end) = drop_probe();
    let (in_timer, timer_end) = drop_probe();
    let (hit, hit_too) = (count.hitter(), count.hitter());
    let bh = aio.bh("test", move || {
        in_bh.touch();
        hit();
    });
    let timer = aio.timer(Clock::Realtime, move || {
        in_timer.touch();
        hit_too();
    });
    bh.schedule();
    timer.arm_at_ns(0);
    drop(aio);
    bh.schedule();
    bh.schedule_idle();
    bh.cancel();
    timer.arm_in_ns(5);
    assert!(!timer.is_armed());
    assert_eq!(timer.deadline_ns(), None);
    timer.cancel();
    assert!(bh_end.threads().is_empty() && timer_end.threads().is_empty());
    drop((bh, timer));
    assert_eq!(
        (
            bh_end.threads().len(),
            timer_end.threads().len(),
            count.get()
        ),
        (1, 1, 0)
    );
}

/// A home in a thread of its own, which drives a reactor for many contexts.
fn with_home(work: impl FnOnce(&Arc<Reactor>, std::thread::ThreadId)) {
    let reactor = Reactor::new().unwrap();
    let control = AioContext::new().unwrap();
    control.attach_to(&reactor).unwrap();
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (driven, seen) = (Arc::clone(&reactor), Arc::clone(&over));
    let (began, begun) = channel();
    let thread = std::thread::spawn(move || {
        let driving = driven.drive().unwrap();
        began.send(()).unwrap();
        while !seen.load(std::sync::atomic::Ordering::SeqCst) {
            driven.iterate(Wait::Block).unwrap();
        }
        drop(driving);
    });
    begun.recv().unwrap();
    work(&reactor, thread.thread().id());
    over.store(true, std::sync::atomic::Ordering::SeqCst);
    control.notify();
    thread.join().unwrap();
}

#[test]
fn last_handle_dropped_elsewhere_leaves_the_end_to_the_home() {
    let _deadline = deadline("last_handle_dropped_elsewhere_leaves_the_end_to_the_home");
    with_home(|reactor, home| {
        for round in 0..300 {
            let aio = AioContext::new().unwrap();
            let (notifier, handler, handler_end) = probed_handler();
            let ((in_bh, bh_end), (in_timer, timer_end), (in_oneshot, oneshot_end)) =
                (drop_probe(), drop_probe(), drop_probe());
            aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
            aio.attach_to(reactor).unwrap();
            let bh = aio.bh("test", move || in_bh.touch());
            let timer = aio.timer(Clock::Realtime, move || in_timer.touch());
            timer.arm_in_ns(round * 100);
            notifier.signal();
            aio.schedule_oneshot("test", move || in_oneshot.touch());
            bh.schedule();
            drop(aio);
            drop((bh, timer));
            for end in [handler_end, oneshot_end] {
                assert_eq!(end.wait(), home);
            }
            // A handle that outlives its context takes its callback with it.
            bh_end.wait();
            timer_end.wait();
        }
    });
}

#[test]
fn context_dropped_in_its_own_bottom_half_with_that_bottom_half() {
    let _deadline = deadline("context_dropped_in_its_own_bottom_half_with_that_bottom_half");
    let reactor = Reactor::new().unwrap();
    let aio = AioContext::new().unwrap();
    aio.attach_to(&reactor).unwrap();
    let (slot, (probe, drops), count) =
        (Slot::<(AioContext, Bh)>::new(), drop_probe(), Count::new());
    let drops = Arc::new(Mutex::new(drops));
    let (mine, seen, hit, inner) = (
        slot.clone(),
        Arc::clone(&drops),
        count.hitter(),
        Arc::downgrade(&reactor),
    );
    let bh = aio.bh("test", move || {
        probe.touch();
        let (aio, bh) = mine.take().unwrap();
        drop(aio);
        bh.schedule();
        drop(bh);
        inner.upgrade().unwrap().iterate(Wait::NoBlock).unwrap();
        assert!(
            seen.lock().unwrap().threads().is_empty(),
            "destroyed while it runs"
        );
        hit();
    });
    bh.schedule();
    slot.put((aio, bh));
    while reactor.iterate(Wait::NoBlock).unwrap() {}
    assert_eq!((count.get(), drops.lock().unwrap().threads().len()), (1, 1));
}

#[test]
fn context_dropped_in_its_own_handler_and_timer() {
    let reactor = Reactor::new().unwrap();
    for use_timer in [false, true] {
        let aio = AioContext::new().unwrap();
        aio.attach_to(&reactor).unwrap();
        let (notifier, (probe, drops), slot) = (
            EventNotifier::new().unwrap(),
            drop_probe(),
            Slot::<AioContext>::new(),
        );
        let mine = slot.clone();
        let end = move || {
            probe.touch();
            drop(mine.take());
        };
        if use_timer {
            let timer = aio.timer(Clock::Realtime, end);
            timer.arm_at_ns(0);
            slot.put(aio);
            assert!(reactor.iterate(Wait::NoBlock).unwrap());
            assert!(drops.threads().is_empty(), "the handle is alive");
            drop(timer);
        } else {
            aio.set_fd_handler(notifier.as_raw_fd(), FdHandler::new().on_read(end))
                .unwrap();
            notifier.signal();
            slot.put(aio);
            assert!(reactor.iterate(Wait::NoBlock).unwrap());
        }
        assert_eq!(drops.threads().len(), 1, "timer: {use_timer}");
    }
}

/// The token that is dropped first may be the older one.
#[test]
fn a_reactor_is_driven_until_the_last_token_is_dropped() {
    let reactor = Reactor::new().unwrap();
    let refused_elsewhere = || {
        std::thread::scope(|scope| {
            let other = scope.spawn(|| reactor.drive().is_err());
            other.join().unwrap()
        })
    };
    let (first, second) = (reactor.drive().unwrap(), reactor.drive().unwrap());
    drop(first);
    assert!(refused_elsewhere());
    drop(second);
    assert!(!refused_elsewhere());
}

/// The teardown drops the callback of one bottom half, which owns the handle of the next one in the list.
#[test]
fn a_callback_that_is_dropped_at_the_end_may_own_the_next_bottom_half() {
    let reactor = Reactor::new().unwrap();
    let aio = AioContext::new().unwrap();
    aio.attach_to(&reactor).unwrap();
    let notifier = EventNotifier::new().unwrap();
    let slot = Slot::<AioContext>::new();
    let ((owned, owned_end), (owner, owner_end)) = (drop_probe(), drop_probe());
    let (mine, mourners) = (slot.clone(), Slot::new());
    mourners.put((owned, owner));
    let handler = FdHandler::new().on_read(move || {
        let aio = mine.take().unwrap();
        let (owned, owner) = mourners.take().unwrap();
        // Made by another thread, so that it stays in the list for other threads until the end.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let bh = Arc::new(aio.bh("owned", move || owned.touch()));
                let again = Arc::clone(&bh);
                aio.schedule_oneshot("owner", move || {
                    owner.touch();
                    drop(again);
                });
                bh.schedule();
            });
        });
        drop(aio);
    });
    aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
    slot.put(aio);
    notifier.signal();
    assert!(reactor.iterate(Wait::NoBlock).unwrap());
    assert_eq!(
        (owner_end.threads().len(), owned_end.threads().len()),
        (1, 1)
    );
}
