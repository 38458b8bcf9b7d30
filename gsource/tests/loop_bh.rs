//! Bottom halves: coalescing, order, cancelling, deleting, idle ones, from any thread and from a signal handler.
#![allow(clippy::unwrap_used, clippy::shadow_unrelated)] // a test fails by panicking, and names its steps alike
#![allow(unsafe_code)] // installs a signal handler

use gsource::{Bh, Clock, Wait};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use support::deadline::deadline;
use support::loops::{Count, Driven, Journal, Loop, Slot, drop_probe};
use support::{both_loops, both_threads};

both_loops! {
    fn bh_scheduled_twice_runs_once(driven) {
        let count = Count::new();
        let bh = driven.aio.bh("test", count.hitter());
        bh.schedule();
        bh.schedule();
        assert!(driven.iterate(Wait::NoBlock));
        assert!(!driven.iterate(Wait::NoBlock));
        assert_eq!(count.get(), 1);
    }

    fn bh_scheduled_ends_a_blocking_iteration(driven) {
        let count = Count::new();
        let bh = driven.aio.bh("test", count.hitter());
        driven.settle();
        bh.schedule();
        assert!(driven.iterate(Wait::Block));
        assert!(!driven.iterate(Wait::NoBlock));
        assert_eq!(count.get(), 1);
    }

    fn bh_cancelled_does_not_run(driven) {
        let count = Count::new();
        let bh = driven.aio.bh("test", count.hitter());
        bh.schedule();
        bh.cancel();
        driven.settle();
        assert_eq!(count.get(), 0);
        bh.schedule();
        assert!(driven.iterate(Wait::Block));
        assert_eq!(count.get(), 1);
    }

    fn bh_cancelled_by_an_earlier_one_of_the_pass_does_not_run(driven) {
        let (count, later) = (Count::new(), Slot::<Bh>::new());
        let target = later.clone();
        let first = driven.aio.bh("first", move || target.with(Bh::cancel));
        later.put(driven.aio.bh("later", count.hitter()));
        first.schedule();
        later.with(Bh::schedule);
        driven.settle();
        assert_eq!(count.get(), 0);
    }

    fn bh_deleted_while_scheduled_does_not_run(driven) {
        let (count, (probe, drops)) = (Count::new(), drop_probe());
        let hit = count.hitter();
        let bh = driven.aio.bh("test", move || {
            probe.touch();
            hit();
        });
        bh.schedule();
        drop(bh);
        driven.settle();
        assert_eq!(count.get(), 0);
        assert_eq!(drops.threads().len(), 1);
    }

    fn bh_deleted_while_not_scheduled_is_destroyed_by_the_loop(driven) {
        let (probe, drops) = drop_probe();
        let bh = driven.aio.bh("test", move || probe.touch());
        drop(bh);
        driven.settle();
        assert_eq!(drops.threads(), [std::thread::current().id()]);
    }

    fn bh_deleted_in_own_callback_runs_no_more(driven) {
        let (count, slot, (probe, drops)) = (Count::new(), Slot::<Bh>::new(), drop_probe());
        let (hit, me) = (count.hitter(), slot.clone());
        let drops = Arc::new(Mutex::new(drops));
        let seen = Arc::clone(&drops);
        slot.put(driven.aio.bh("test", move || {
            probe.touch();
            hit();
            me.with(Bh::schedule);
            drop(me.take());
            assert!(seen.lock().unwrap().threads().is_empty(), "dropped while it runs");
        }));
        slot.with(Bh::schedule);
        assert!(driven.iterate(Wait::NoBlock));
        driven.settle();
        assert_eq!(count.get(), 1);
        assert_eq!(drops.lock().unwrap().threads().len(), 1);
    }

    fn bh_delete_from_cb_many(driven) {
        let bhs: Vec<_> = [1, 3, 2, 4]
            .map(|max| {
                let (count, slot) = (Count::new(), Slot::<Bh>::new());
                let (hit, me) = (count.clone(), slot.clone());
                slot.put(driven.aio.bh("test", move || {
                    if hit.hit() < max {
                        me.with(Bh::schedule);
                    } else {
                        drop(me.take());
                    }
                }));
                slot.with(Bh::schedule);
                (count, max)
            })
            .into();
        assert!(driven.iterate(Wait::NoBlock));
        assert!(bhs.iter().all(|(count, _)| count.get() == 1), "each runs once in the first pass");
        driven.settle();
        assert!(bhs.iter().all(|(count, max)| count.get() == *max));
    }

    fn bh_scheduled_in_own_callback_runs_once_per_pass(driven) {
        let (count, slot) = (Count::new(), Slot::<Bh>::new());
        let (hit, me) = (count.clone(), slot.clone());
        slot.put(driven.aio.bh("test", move || {
            if hit.hit() < 10 {
                me.with(Bh::schedule);
            }
        }));
        slot.with(Bh::schedule);
        for pass in 1..=10 {
            assert!(driven.iterate(Wait::Block), "pass {pass}");
            assert_eq!(count.get(), pass);
        }
        assert!(!driven.iterate(Wait::NoBlock));
        drop(slot.take());
    }

    fn bh_scheduled_by_an_earlier_one_of_the_pass_waits_for_the_next(driven) {
        let journal = Journal::new();
        let second = driven.aio.bh("second", journal.noter("second"));
        let note = journal.noter("first");
        let first = driven.aio.bh("first", move || {
            note();
            second.schedule();
        });
        first.schedule();
        assert!(driven.iterate(Wait::NoBlock));
        assert_eq!(journal.text(), "first");
        assert!(driven.iterate(Wait::NoBlock));
        assert_eq!(journal.text(), "first second");
    }

    fn bhs_run_in_the_order_of_scheduling(driven) {
        let journal = Journal::new();
        let bhs = ["a", "b", "c", "d"].map(|name| driven.aio.bh(name, journal.noter(name)));
        for index in [2, 0, 3, 1, 2] {
            bhs[index].schedule();
        }
        assert!(driven.iterate(Wait::NoBlock));
        assert_eq!(journal.text(), "c a d b");
    }

    fn bh_nested_iteration_runs_the_rest_of_the_slice_and_new_ones(driven) {
        let (journal, nested) = (Journal::new(), driven.nested());
        let fresh = driven.aio.bh("new", journal.noter("new"));
        let noted = journal.clone();
        let outer = driven.aio.bh("outer", move || {
            noted.note("begin");
            fresh.schedule();
            assert!(nested(Wait::Block));
            noted.note("end");
        });
        let rest = driven.aio.bh("rest", journal.noter("rest"));
        outer.schedule();
        rest.schedule();
        assert!(driven.iterate(Wait::NoBlock));
        assert_eq!(journal.text(), "begin rest new end");
        driven.settle();
        assert_eq!(journal.text(), "begin rest new end");
    }

    fn bh_rescheduled_and_run_again_inside_its_own_nested_iteration(driven) {
        let (journal, nested, slot) = (Journal::new(), driven.nested(), Slot::<Bh>::new());
        let (noted, me, depth) = (journal.clone(), slot.clone(), Count::new());
        slot.put(driven.aio.bh("test", move || {
            let level = depth.hit();
            noted.note(format!("begin{level}"));
            match level {
                1 => {
                    me.with(Bh::schedule);
                    nested(Wait::Block);
                }
                _ => drop(me.take()),
            }
            noted.note(format!("end{level}"));
        }));
        slot.with(Bh::schedule);
        assert!(driven.iterate(Wait::NoBlock));
        driven.settle();
        assert_eq!(journal.text(), "begin1 begin2 end2 end1");
    }

    fn bh_deleted_and_reaped_inside_its_own_nested_iteration_outlives_the_call(driven) {
        let (nested, slot, (probe, drops)) = (driven.nested(), Slot::<Bh>::new(), drop_probe());
        let (me, drops) = (slot.clone(), Arc::new(Mutex::new(drops)));
        let seen = Arc::clone(&drops);
        slot.put(driven.aio.bh("test", move || {
            probe.touch();
            drop(me.take());
            nested(Wait::NoBlock);
            nested(Wait::NoBlock);
            assert!(seen.lock().unwrap().threads().is_empty(), "dropped while it runs");
        }));
        slot.with(Bh::schedule);
        driven.settle();
        assert_eq!(drops.lock().unwrap().threads(), [std::thread::current().id()]);
    }

    fn idle_bh_runs_soon_and_needs_no_other_event(driven) {
        let count = Count::new();
        let bh = driven.aio.bh("idle", count.hitter());
        driven.settle();
        bh.schedule_idle();
        assert!(driven.until(|| count.get() > 0) <= 3);
        drop(bh);
    }

    fn idle_bh_that_reschedules_itself_does_not_spin(driven) {
        let (count, slot) = (Count::new(), Slot::<Bh>::new());
        let (hit, me) = (count.clone(), slot.clone());
        slot.put(driven.aio.bh("idle", move || {
            hit.hit();
            me.with(Bh::schedule_idle);
        }));
        let begin = Clock::Realtime.now_ns();
        slot.with(Bh::schedule_idle);
        driven.until(|| count.get() == 11);
        let taken = Clock::Realtime.now_ns() - begin;
        assert!(taken >= 70_000_000, "every 10 ms, not 11 times in {taken} ns");
        drop(slot.take());
    }

    fn idle_bh_runs_at_once_when_the_loop_iterates_anyway(driven) {
        let journal = Journal::new();
        let idle = driven.aio.bh("idle", journal.noter("idle"));
        let other = driven.aio.bh("other", journal.noter("other"));
        idle.schedule_idle();
        other.schedule();
        assert!(driven.iterate(Wait::NoBlock));
        assert_eq!(journal.text(), "idle other");
    }

    fn idle_bh_made_urgent_counts_as_progress(driven) {
        let count = Count::new();
        let bh = driven.aio.bh("test", count.hitter());
        bh.schedule_idle();
        bh.schedule();
        assert!(driven.iterate(Wait::NoBlock));
        assert!(!driven.iterate(Wait::NoBlock));
        assert_eq!(count.get(), 1);
    }

    fn panicking_bh_is_called_no_more_and_others_go_on(driven) {
        let (count, others) = (Count::new(), Count::new());
        let hit = count.hitter();
        let bad = driven.aio.bh("bad", move || {
            hit();
            panic!("expected by the test");
        });
        let good = driven.aio.bh("good", others.hitter());
        for _ in 0..3 {
            bad.schedule();
            good.schedule();
            assert!(driven.iterate(Wait::NoBlock));
        }
        assert_eq!((count.get(), others.get()), (1, 3));
    }

    fn oneshot_runs_once_and_drops_what_it_captured(driven) {
        let (count, (probe, drops)) = (Count::new(), drop_probe());
        let hit = count.hitter();
        driven.aio.schedule_oneshot("test", move || {
            probe.touch();
            hit();
        });
        assert!(driven.iterate(Wait::Block));
        driven.settle();
        assert_eq!((count.get(), drops.threads().len()), (1, 1));
    }

    fn oneshot_that_schedules_another_is_served_by_a_nested_iteration(driven) {
        let (journal, nested) = (Journal::new(), driven.nested());
        let noted = journal.clone();
        let aio = driven.aio.clone();
        driven.aio.schedule_oneshot("outer", move || {
            let inner = noted.clone();
            aio.schedule_oneshot("inner", move || inner.note("inner"));
            drop(aio);
            assert!(nested(Wait::Block));
            noted.note("outer");
        });
        driven.settle();
        assert_eq!(journal.text(), "inner outer");
    }
}

both_threads! {
    // Hazard 23 of docs/predecessor-hazards.md: an unlocked list of bottom halves.
    fn oneshots_from_many_threads_all_run_at_home(running) {
        let (count, home) = (Count::new(), running.home);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let count = count.clone();
                        running.aio.schedule_oneshot("test", move || {
                            assert_eq!(std::thread::current().id(), home);
                            count.hit();
                        });
                    }
                });
            }
        });
        running.on_home(|| ());
        assert_eq!(count.get(), 2000);
    }

    fn bh_scheduled_from_threads_that_wait_for_it_is_never_lost(running) {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let (send, receive) = channel();
                    let bh = running.aio.bh("ping", move || send.send(()).unwrap());
                    for _ in 0..500 {
                        bh.schedule();
                        receive.recv().unwrap();
                    }
                });
            }
        });
    }

    fn bh_cancelled_before_the_loop_slept_wakes_it_when_scheduled_again(running) {
        let (send, receive) = channel();
        let bh = Arc::new(running.aio.bh("test", move || send.send(()).unwrap()));
        for _ in 0..20 {
            let same = Arc::clone(&bh);
            running.on_home(move || {
                same.schedule();
                same.cancel();
            });
            running.wait_asleep();
            bh.schedule();
            receive.recv().unwrap();
        }
    }

    // Hazard 23 of docs/predecessor-hazards.md: schedule_idle that does not reach a sleeping loop.
    fn idle_bh_scheduled_by_another_thread_reaches_a_sleeping_loop(running) {
        let (send, receive) = channel();
        let bh = running.aio.bh("idle", move || send.send(()).unwrap());
        for _ in 0..5 {
            running.wait_asleep();
            bh.schedule_idle();
            receive.recv().unwrap();
        }
    }

    fn bh_deleted_by_another_thread_while_it_runs_is_destroyed_at_home_after_the_call(running) {
        let (probe, drops) = drop_probe();
        let (began, begun) = channel();
        let (end, go_on) = channel::<()>();
        let go_on = Mutex::new(go_on);
        let bh = running.aio.bh("test", move || {
            probe.touch();
            began.send(()).unwrap();
            go_on.lock().unwrap().recv().unwrap();
        });
        bh.schedule();
        begun.recv().unwrap();
        drop(bh);
        assert!(drops.threads().is_empty());
        end.send(()).unwrap();
        assert_eq!(drops.wait(), running.home);
    }

    fn bhs_created_scheduled_and_deleted_by_many_threads(running) {
        let home = running.home;
        let all_drops: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..300)
                            .map(|_| {
                                let (probe, drops) = drop_probe();
                                let bh = running.aio.bh("test", move || probe.touch());
                                bh.schedule();
                                drops
                            })
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert!(all_drops.iter().all(|drops| drops.wait() == home));
    }
}

/// An idle bottom half is not progress for our own loop; GLib's iteration counts what it dispatched.
#[test]
fn idle_bh_is_no_progress() {
    let driven = Driven::new(Loop::Own);
    let count = Count::new();
    let bh = driven.aio.bh("idle", count.hitter());
    bh.schedule_idle();
    assert!(!driven.iterate(Wait::NoBlock));
    bh.schedule_idle();
    assert!(!driven.iterate(Wait::Block));
    assert!(count.get() >= 1);
}

/// What `on_signal` schedules.
static SIGNALLED: AtomicPtr<Bh> = AtomicPtr::new(std::ptr::null_mut());

extern "C" fn on_signal(_: libc::c_int) {
    // SAFETY: set before the handler was installed, to a bottom half that outlives it.
    unsafe { &*SIGNALLED.load(Ordering::SeqCst) }.schedule();
}

/// Both loops in one test: there is one signal handler.
#[test]
fn bh_scheduled_by_a_signal_handler_runs() {
    let _deadline = deadline("bh_scheduled_by_a_signal_handler_runs");
    for kind in [Loop::Own, Loop::Glib] {
        let (driven, count) = (Driven::new(kind), Count::new());
        let bh = driven.aio.bh("signalled", count.hitter());
        SIGNALLED.store((&raw const bh).cast_mut(), Ordering::SeqCst);
        let handler: extern "C" fn(libc::c_int) = on_signal;
        // SAFETY: the handler does only what is async-signal-safe.
        unsafe { libc::signal(libc::SIGUSR1, handler as usize) };
        // SAFETY: no pointers are passed.
        unsafe { libc::raise(libc::SIGUSR1) };
        driven.until(|| count.get() == 1);
        // SAFETY: as above.
        unsafe { libc::signal(libc::SIGUSR1, libc::SIG_IGN) };
    }
}
