//! Fd handlers and event notifiers: what is called when, and what a callback may do to the others.
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::shadow_unrelated)] // a test fails by panicking, and names its steps alike

use gsource::{AioContext, EventNotifier, FdHandler, Reactor, Wait};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use support::both_loops;
use support::loops::{
    Count, Driven, Journal, Loop, Slot, counting_notifier, drop_probe, stream_pair,
    watched_notifier,
};
use support::thread::{gettid, wait_asleep};

both_loops! {
    fn notifier_signalled_twice_is_one_call(driven) {
        let (notifier, count) = watched_notifier(&driven.aio);
        assert!(!driven.iterate(Wait::NoBlock));
        notifier.signal();
        notifier.signal();
        assert!(driven.iterate(Wait::Block));
        assert!(!driven.iterate(Wait::NoBlock));
        assert_eq!(count.get(), 1);
    }

    fn adding_and_removing_a_handler_is_no_progress(driven) {
        let (notifier, count) = watched_notifier(&driven.aio);
        assert!(!driven.iterate(Wait::NoBlock));
        assert!(driven.aio.remove_fd_handler(notifier.as_raw_fd()));
        assert!(!driven.aio.remove_fd_handler(notifier.as_raw_fd()));
        assert!(!driven.iterate(Wait::NoBlock));
        notifier.signal();
        driven.settle();
        assert_eq!(count.get(), 0);
    }

    fn notifier_that_signals_itself_fires_once_per_iteration(driven) {
        let notifier = Arc::new(EventNotifier::new().unwrap());
        let (count, again) = (Count::new(), Arc::clone(&notifier));
        let hit = count.clone();
        let handler = FdHandler::new().on_read(move || {
            if again.take() && hit.hit() < 10 {
                again.signal();
            }
        });
        driven.aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
        notifier.signal();
        for pass in 1..=10 {
            assert!(driven.iterate(Wait::Block));
            assert_eq!(count.get(), pass);
        }
        assert!(!driven.iterate(Wait::NoBlock));
    }

    // Hazard 25 of docs/predecessor-hazards.md: a wait that depends on handlers being busy.
    fn notifier_wait_noflush(driven) {
        let (data, hits) = watched_notifier(&driven.aio);
        assert!(!driven.iterate(Wait::NoBlock));
        data.signal();
        assert!(driven.iterate(Wait::NoBlock));
        data.signal();
        assert!(driven.iterate(Wait::Block));
        assert_eq!(hits.get(), 2);
        let (dummy, others) = watched_notifier(&driven.aio);
        dummy.signal();
        assert!(driven.iterate(Wait::Block));
        assert_eq!((hits.get(), others.get()), (2, 1));
    }

    // Hazard 2 of docs/predecessor-hazards.md: the read callback called for any event.
    fn writable_only_calls_the_writer_alone(driven) {
        let (mut near, mut far) = stream_pair();
        let (reads, writes) = (Count::new(), Count::new());
        let handler = FdHandler::new().on_read(reads.hitter()).on_write(writes.hitter());
        driven.aio.set_fd_handler(near.as_raw_fd(), handler).unwrap();
        assert!(driven.iterate(Wait::Block));
        assert_eq!((reads.get(), writes.get()), (0, 1));
        far.write_all(b"x").unwrap();
        assert!(driven.iterate(Wait::Block));
        assert_eq!((reads.get(), writes.get()), (1, 2));
        near.read_exact(&mut [0]).unwrap();
        assert!(driven.iterate(Wait::Block));
        assert_eq!((reads.get(), writes.get()), (1, 3), "old events are not kept");
        driven.aio.remove_fd_handler(near.as_raw_fd());
    }

    fn readable_only_does_not_call_a_writer_that_is_not_asked_for(driven) {
        let (near, mut far) = stream_pair();
        let reads = Count::new();
        driven.aio.set_fd_handler(near.as_raw_fd(), FdHandler::new().on_read(reads.hitter())).unwrap();
        assert!(!driven.iterate(Wait::NoBlock));
        far.write_all(b"x").unwrap();
        assert!(driven.iterate(Wait::Block));
        assert!(driven.iterate(Wait::Block), "level-triggered: not read yet");
        assert_eq!(reads.get(), 2);
        driven.aio.remove_fd_handler(near.as_raw_fd());
    }

    fn hangup_goes_to_the_reader(driven) {
        let (near, far) = stream_pair();
        let reads = Count::new();
        driven.aio.set_fd_handler(near.as_raw_fd(), FdHandler::new().on_read(reads.hitter())).unwrap();
        drop(far);
        assert!(driven.iterate(Wait::Block));
        assert_eq!(reads.get(), 1);
        driven.aio.remove_fd_handler(near.as_raw_fd());
    }

    fn hangup_goes_to_a_lone_writer(driven) {
        let (near, far) = stream_pair();
        let writes = Count::new();
        driven.aio.set_fd_handler(near.as_raw_fd(), FdHandler::new().on_write(writes.hitter())).unwrap();
        drop(far);
        assert!(driven.iterate(Wait::Block));
        assert_eq!(writes.get(), 1);
        driven.aio.remove_fd_handler(near.as_raw_fd());
    }

    fn handler_removed_by_another_of_the_same_pass_is_not_called(driven) {
        let (a, b) = (Arc::new(EventNotifier::new().unwrap()), Arc::new(EventNotifier::new().unwrap()));
        let calls = Count::new();
        for (me, other) in [(&a, &b), (&b, &a)] {
            let (aio, hit, other) = (Slot::new(), calls.clone(), other.as_raw_fd());
            aio.put(driven.aio.clone());
            let slot = aio.clone();
            let handler = FdHandler::new().on_read(move || {
                hit.hit();
                let aio: Option<AioContext> = slot.take();
                assert!(aio.unwrap().remove_fd_handler(other));
            });
            driven.aio.set_fd_handler(me.as_raw_fd(), handler).unwrap();
        }
        a.signal();
        b.signal();
        assert!(driven.iterate(Wait::Block));
        assert_eq!(calls.get(), 1);
        driven.aio.remove_fd_handler(a.as_raw_fd());
        driven.aio.remove_fd_handler(b.as_raw_fd());
    }

    fn handler_replaced_by_itself_while_dispatching(driven) {
        let (notifier, journal, nested) = (Arc::new(EventNotifier::new().unwrap()), Journal::new(), Slot::new());
        nested.put(driven.aio.clone());
        let (fd, noted) = (notifier.as_raw_fd(), journal.clone());
        let handler = FdHandler::new().on_read(move || {
            let aio: AioContext = nested.take().unwrap();
            let new = noted.noter("new");
            aio.set_fd_handler(fd, FdHandler::new().on_read(new)).unwrap();
            noted.note("old");
        });
        driven.aio.set_fd_handler(fd, handler).unwrap();
        notifier.signal();
        assert!(driven.iterate(Wait::Block));
        assert_eq!(journal.text(), "old");
        assert!(driven.iterate(Wait::Block));
        assert_eq!(journal.text(), "old new");
        driven.aio.remove_fd_handler(fd);
    }

    fn handler_replaced_by_another_of_the_same_pass_never_runs_its_old_callback(driven) {
        let (first, second) = (EventNotifier::new().unwrap(), EventNotifier::new().unwrap());
        let (old, new) = (Count::new(), Count::new());
        for (me, other) in [(&first, &second), (&second, &first)] {
            let (aio, other, old, new) = (Slot::new(), other.as_raw_fd(), old.clone(), new.clone());
            aio.put(driven.aio.clone());
            let handler = FdHandler::new().on_read(move || {
                old.hit();
                let aio: AioContext = aio.take().unwrap();
                aio.set_fd_handler(other, FdHandler::new().on_read(new.hitter())).unwrap();
            });
            driven.aio.set_fd_handler(me.as_raw_fd(), handler).unwrap();
        }
        first.signal();
        second.signal();
        assert!(driven.iterate(Wait::Block));
        assert_eq!((old.get(), new.get()), (1, 0));
        driven.aio.remove_fd_handler(first.as_raw_fd());
        driven.aio.remove_fd_handler(second.as_raw_fd());
    }

    fn handler_removed_in_its_reader_does_not_call_its_writer(driven) {
        let (near, mut far) = stream_pair();
        far.write_all(b"x").unwrap();
        let (aio, writes, fd) = (Slot::new(), Count::new(), near.as_raw_fd());
        aio.put(driven.aio.clone());
        let handler = FdHandler::new()
            .on_read(move || {
                let aio: AioContext = aio.take().unwrap();
                aio.remove_fd_handler(fd);
            })
            .on_write(writes.hitter());
        driven.aio.set_fd_handler(fd, handler).unwrap();
        assert!(driven.iterate(Wait::Block));
        driven.settle();
        assert_eq!(writes.get(), 0);
    }

    // Hazard 3 of docs/predecessor-hazards.md: callbacks called with the list's lock held.
    fn callback_may_wait_for_another_thread_that_registers(driven) {
        let (notifier, other) = (Arc::new(EventNotifier::new().unwrap()), Arc::new(EventNotifier::new().unwrap()));
        let (aio, done, taken, other_fd) = (Slot::new(), Count::new(), Arc::clone(&notifier), other.as_raw_fd());
        aio.put(driven.aio.clone());
        let hit = done.clone();
        let handler = FdHandler::new().on_read(move || {
            taken.take();
            let aio: AioContext = aio.take().unwrap();
            let register = move || {
                aio.set_fd_handler(other_fd, FdHandler::new().on_read(|| ())).unwrap();
                assert!(aio.remove_fd_handler(other_fd));
                let bh = aio.bh("test", || ());
                bh.schedule();
                aio.timer(gsource::Clock::Realtime, || ()).arm_in_ns(0);
            };
            std::thread::spawn(register).join().unwrap();
            hit.hit();
        });
        driven.aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
        notifier.signal();
        driven.until(|| done.get() == 1);
        driven.settle();
    }

    fn edge_triggered_notifier_fires_once_per_signal_without_being_read(driven) {
        let (notifier, count) = (EventNotifier::new().unwrap(), Count::new());
        let handler = FdHandler::new().on_read(count.hitter()).edge_triggered();
        driven.aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
        for signals in 1..=3 {
            notifier.signal();
            assert!(driven.iterate(Wait::Block));
            assert!(!driven.iterate(Wait::NoBlock));
            assert_eq!(count.get(), signals);
        }
    }

    fn regular_file_and_dev_null_are_always_ready(driven) {
        for path in ["/dev/null", "/proc/self/exe"] {
            let file = std::fs::File::open(path).unwrap();
            let (reads, writes) = (Count::new(), Count::new());
            let handler = FdHandler::new().on_read(reads.hitter()).on_write(writes.hitter());
            driven.aio.set_fd_handler(file.as_raw_fd(), handler).unwrap();
            assert!(driven.iterate(Wait::Block));
            assert!(driven.iterate(Wait::NoBlock));
            assert_eq!((reads.get(), writes.get()), (2, 2));
            driven.aio.remove_fd_handler(file.as_raw_fd());
            assert!(!driven.iterate(Wait::NoBlock));
        }
    }

    fn always_ready_fd_added_by_another_thread_reaches_a_sleeping_loop(driven) {
        let (file, reads, tid) = (std::fs::File::open("/dev/null").unwrap(), Count::new(), gettid());
        driven.settle();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                wait_asleep(tid);
                let handler = FdHandler::new().on_read(reads.hitter());
                driven.aio.set_fd_handler(file.as_raw_fd(), handler).unwrap();
            });
            driven.until(|| reads.get() > 0);
        });
        driven.aio.remove_fd_handler(file.as_raw_fd());
    }

    // Hazard 17 of docs/predecessor-hazards.md: a fixed array of 2048 poll entries.
    fn three_thousand_handlers(driven) {
        let (notifiers, counts): (Vec<_>, Vec<_>) = (0..3000).map(|_| watched_notifier(&driven.aio)).unzip();
        for index in [0, 1, 2047, 2048, 2999] {
            notifiers[index].signal();
        }
        driven.settle();
        let called: Vec<_> = (0..3000).filter(|&index| counts[index].get() == 1).collect();
        assert_eq!(called, [0, 1, 2047, 2048, 2999]);
    }

    fn more_ready_handlers_than_one_wait_returns_are_all_called(driven) {
        let (notifiers, counts): (Vec<_>, Vec<_>) = (0..700).map(|_| watched_notifier(&driven.aio)).unzip();
        notifiers.iter().for_each(|notifier| notifier.signal());
        driven.settle();
        assert!(counts.iter().all(|count| count.get() == 1));
    }

    // Hazard 9 of docs/predecessor-hazards.md: a nested loop frees records under the outer walk.
    fn nested_iteration_removes_handlers_under_the_outer_one(driven) {
        let notifiers: Vec<_> = (0..5).map(|_| Arc::new(EventNotifier::new().unwrap())).collect();
        let fds: Vec<_> = notifiers.iter().map(|notifier| notifier.as_raw_fd()).collect();
        let (calls, begun) = (Count::new(), Count::new());
        for notifier in &notifiers {
            let (nested, hit, begin, me) = (driven.nested(), calls.clone(), begun.clone(), Arc::clone(notifier));
            let (slot, fds) = (Slot::new(), fds.clone());
            slot.put(driven.aio.clone());
            let handler = FdHandler::new().on_read(move || {
                me.take();
                let aio: AioContext = slot.take().unwrap();
                if begin.hit() == 1 {
                    fds.iter().for_each(|&fd| {
                        aio.remove_fd_handler(fd);
                    });
                    drop(aio);
                    nested(Wait::NoBlock);
                    nested(Wait::NoBlock);
                }
                hit.hit();
            });
            driven.aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
        }
        notifiers.iter().for_each(|notifier| notifier.signal());
        driven.settle();
        assert_eq!(calls.get(), 1);
    }

    fn nested_iteration_runs_the_rest_of_the_ready_handlers(driven) {
        let (journal, nested) = (Journal::new(), Arc::new(driven.nested()));
        let notifiers: Vec<_> = (0..3).map(|_| Arc::new(EventNotifier::new().unwrap())).collect();
        let begun = Count::new();
        for notifier in &notifiers {
            let (journal, nested, begun, me) =
                (journal.clone(), Arc::clone(&nested), begun.clone(), Arc::clone(notifier));
            let handler = FdHandler::new().on_read(move || {
                me.take();
                let number = begun.hit();
                if number == 1 {
                    assert!(nested(Wait::NoBlock));
                }
                journal.note(format!("{number}"));
            });
            driven.aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
        }
        notifiers.iter().for_each(|notifier| notifier.signal());
        driven.settle();
        assert_eq!(journal.text(), "2 3 1");
    }

    // Hazard 7 of docs/predecessor-hazards.md: an assertion on the number of the fd.
    fn impossible_fd_is_an_error_and_the_handler_is_not_taken(driven) {
        driven.settle();
        for fd in [-1, 1_000_000, i32::MAX] {
            let (probe, drops) = drop_probe();
            let handler = FdHandler::new().on_read(move || probe.touch());
            let error = driven.aio.set_fd_handler(fd, handler).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EBADF), "fd {fd}");
            assert_eq!(drops.threads().len(), 1, "given back to the caller, who dropped it");
            assert!(!driven.aio.remove_fd_handler(fd));
        }
        let (notifier, count) = watched_notifier(&driven.aio);
        notifier.signal();
        assert!(driven.iterate(Wait::Block));
        assert_eq!(count.get(), 1);
    }

    fn handler_without_callbacks_removes(driven) {
        let (notifier, count) = watched_notifier(&driven.aio);
        driven.aio.set_fd_handler(notifier.as_raw_fd(), FdHandler::new()).unwrap();
        notifier.signal();
        driven.settle();
        assert_eq!(count.get(), 0);
        assert!(!driven.aio.remove_fd_handler(notifier.as_raw_fd()));
    }

    // Hazard 16 of docs/predecessor-hazards.md: every change detaches and attaches the running source.
    fn changing_one_handler_leaves_the_others_undisturbed(driven) {
        let (quiet, calls) = watched_notifier(&driven.aio);
        quiet.signal();
        let (busy, _, _) = counting_notifier();
        for _ in 0..50 {
            driven.aio.set_fd_handler(busy.as_raw_fd(), FdHandler::new().on_read(|| ())).unwrap();
            driven.aio.remove_fd_handler(busy.as_raw_fd());
        }
        assert!(driven.iterate(Wait::Block));
        assert_eq!(calls.get(), 1);
    }
}

#[test]
fn impossible_fd_is_an_error_also_before_the_first_iteration() {
    let aio = AioContext::new().unwrap();
    for fd in [-1, 1_000_000, i32::MAX] {
        let error = aio
            .set_fd_handler(fd, FdHandler::new().on_read(|| ()))
            .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF), "fd {fd}");
    }
}

#[test]
fn one_fd_is_wanted_by_two_contexts_of_a_reactor() {
    let reactor = Reactor::new().unwrap();
    let (mut near, mut far) = stream_pair();
    let fd = near.as_raw_fd();
    let (reader, writer) = (AioContext::new().unwrap(), AioContext::new().unwrap());
    let (reads, writes) = (Count::new(), Count::new());
    reader.attach_to(&reactor).unwrap();
    reader
        .set_fd_handler(fd, FdHandler::new().on_read(reads.hitter()))
        .unwrap();
    writer
        .set_fd_handler(fd, FdHandler::new().on_write(writes.hitter()))
        .unwrap();
    writer.attach_to(&reactor).unwrap();
    assert!(reactor.iterate(Wait::Block).unwrap());
    assert_eq!((reads.get(), writes.get()), (0, 1));
    far.write_all(b"x").unwrap();
    assert!(reactor.iterate(Wait::Block).unwrap());
    assert_eq!((reads.get(), writes.get()), (1, 2));
    assert!(writer.remove_fd_handler(fd));
    assert!(reactor.iterate(Wait::Block).unwrap());
    assert_eq!(
        (reads.get(), writes.get()),
        (2, 2),
        "the other one still watches"
    );
    near.read_exact(&mut [0]).unwrap();
    assert!(!reactor.iterate(Wait::NoBlock).unwrap());
    writer
        .set_fd_handler(fd, FdHandler::new().on_read(writes.hitter()))
        .unwrap();
    reader.detach().unwrap();
    far.write_all(b"y").unwrap();
    assert!(reactor.iterate(Wait::Block).unwrap());
    assert_eq!((reads.get(), writes.get()), (2, 3));
    assert!(reader.poll(Wait::Block).unwrap());
    assert_eq!((reads.get(), writes.get()), (3, 3));
}

#[test]
fn iohandlers_are_an_aio_context() {
    let table = gsource::IoHandlers::new().unwrap();
    let (notifier, count, handler) = counting_notifier();
    table.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
    notifier.signal();
    assert!(table.aio().poll(Wait::Block).unwrap());
    assert_eq!(count.get(), 1);
    assert!(table.remove_fd_handler(notifier.as_raw_fd()));
    assert!(!table.remove_fd_handler(notifier.as_raw_fd()));
}

#[test]
fn driven_contexts_are_independent() {
    let (a, b) = (Driven::new(Loop::Own), Driven::new(Loop::Glib));
    let (notifier, count) = watched_notifier(&a.aio);
    notifier.signal();
    assert!(!b.iterate(Wait::NoBlock));
    assert!(a.iterate(Wait::NoBlock));
    assert_eq!(count.get(), 1);
}
