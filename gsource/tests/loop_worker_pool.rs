//! The worker pool: order, cancelling, panics, limits, where and when completions run, moves and tear-downs.
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::shadow_unrelated)] // a test fails by panicking, and names its steps alike

use gsource::{AioContext, ErrorKind, Job, PoolLimits, Reactor, Wait};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use support::deadline::deadline;
use support::loops::{Count, Journal, Slot, drop_probe};
use support::{both_loops, both_threads};

/// A gate that holds jobs until it is opened, and counts those that have reached it.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<(usize, bool)>, Condvar)>);

impl Gate {
    fn new() -> Gate {
        Gate::default()
    }

    #[expect(
        clippy::significant_drop_tightening,
        reason = "the wait gives the lock up"
    )]
    fn pass(&self) {
        let (state, changed) = &*self.0;
        let mut arrived = state.lock().unwrap();
        arrived.0 += 1;
        changed.notify_all();
        drop(changed.wait_while(arrived, |state| !state.1).unwrap());
    }

    fn wait_for(&self, arrivals: usize) {
        let (state, changed) = &*self.0;
        let waiting = state.lock().unwrap();
        drop(changed.wait_while(waiting, |state| state.0 < arrivals));
    }

    fn arrivals(&self) -> usize {
        self.0.0.lock().unwrap().0
    }

    fn open(&self) {
        self.0.0.lock().unwrap().1 = true;
        self.0.1.notify_all();
    }
}

fn limit(aio: &AioContext, min: i64, max: i64) {
    aio.set_pool_limits(PoolLimits { min, max }).unwrap();
}

/// Submits a job that waits at `gate`; its outcome is counted in `done`, and in `cancelled` when it was cancelled.
fn submit_gated(aio: &AioContext, gate: &Gate, done: &Count, cancelled: &Count) -> Job {
    let (gate, done, cancelled) = (gate.clone(), done.clone(), cancelled.clone());
    aio.submit(
        move || gate.pass(),
        move |result| {
            done.hit();
            if let Err(error) = result {
                assert_eq!(error.kind(), ErrorKind::Cancelled);
                assert_eq!(error.errno(), libc::ECANCELED);
                cancelled.hit();
            }
        },
    )
}

/// The end of what runs on a worker, seen from outside.
fn signalled() -> (Sender<()>, Receiver<()>) {
    channel()
}

both_loops! {
    fn a_result_comes_back_on_the_home_and_not_before_an_iteration(driven) {
        let (ran, worker) = channel();
        let result = Slot::new();
        let there = result.clone();
        driven.aio.submit(
            move || {
                ran.send(std::thread::current().id()).unwrap();
                6 * 7
            },
            move |answer| there.put((answer.unwrap(), std::thread::current().id())),
        );
        assert_ne!(worker.recv().unwrap(), std::thread::current().id());
        driven.until(|| result.take().is_some_and(|(answer, thread)| {
            assert_eq!((answer, thread), (42, std::thread::current().id()));
            true
        }));
    }

    fn a_finished_job_waits_for_an_iteration(driven) {
        let done = Count::new();
        driven.aio.submit(|| (), { let done = done.clone(); move |_| { done.hit(); } });
        let aio = &driven.aio;
        // The worker is free again only after it has reported.
        let (next, is_next) = signalled();
        limit(aio, 0, 1);
        aio.submit(move || next.send(()).unwrap(), |_| ());
        is_next.recv().unwrap();
        assert_eq!(done.get(), 0);
        driven.until(|| done.get() == 1);
    }

    fn jobs_start_in_order(driven) {
        limit(&driven.aio, 0, 1);
        let (journal, done) = (Journal::new(), Count::new());
        for name in ["a", "b", "c", "d", "e"] {
            let hit = done.hitter();
            driven.aio.submit(journal.noter(name), move |_| hit());
        }
        driven.until(|| done.get() == 5);
        assert_eq!(journal.text(), "a b c d e");
        assert_eq!(driven.aio.pool().threads(), 1);
    }

    fn a_hundred_jobs_run_sixty_four_at_a_time(driven) {
        let (gate, done, cancelled) = (Gate::new(), Count::new(), Count::new());
        for _ in 0..100 {
            submit_gated(&driven.aio, &gate, &done, &cancelled);
        }
        gate.wait_for(64);
        driven.settle();
        assert_eq!((gate.arrivals(), done.get()), (64, 0));
        assert_eq!((driven.aio.pool().threads(), driven.aio.pool().queued()), (64, 36));
        gate.open();
        driven.until(|| done.get() == 100);
        assert_eq!((gate.arrivals(), cancelled.get()), (100, 0));
    }

    fn cancelling_a_hundred_jobs_takes_back_those_that_have_not_begun(driven) {
        limit(&driven.aio, 0, 4);
        let (gate, done, cancelled) = (Gate::new(), Count::new(), Count::new());
        let jobs: Vec<_> = (0..100)
            .map(|_| submit_gated(&driven.aio, &gate, &done, &cancelled))
            .collect();
        gate.wait_for(4);
        driven.settle();
        assert_eq!(done.get(), 0, "all active");
        let taken = jobs.iter().filter(|job| job.cancel()).count();
        assert_eq!((taken, done.get()), (96, 0), "told in an iteration only");
        assert_eq!(driven.aio.pool().queued(), 0);
        driven.until(|| done.get() == 96);
        assert_eq!(cancelled.get(), 96);
        gate.open();
        driven.until(|| done.get() == 100);
        assert_eq!((gate.arrivals(), cancelled.get()), (4, 96));
    }

    fn cancelling_a_running_or_finished_job_changes_nothing(driven) {
        let (gate, done, cancelled) = (Gate::new(), Count::new(), Count::new());
        let job = submit_gated(&driven.aio, &gate, &done, &cancelled);
        gate.wait_for(1);
        assert!(!job.cancel());
        gate.open();
        driven.until(|| done.get() == 1);
        assert!(!job.cancel());
        driven.settle();
        assert_eq!((done.get(), cancelled.get()), (1, 0));
    }

    fn cancelling_twice_tells_once(driven) {
        limit(&driven.aio, 0, 1);
        let (gate, done, cancelled) = (Gate::new(), Count::new(), Count::new());
        submit_gated(&driven.aio, &gate, &done, &cancelled);
        gate.wait_for(1);
        let job = submit_gated(&driven.aio, &gate, &done, &cancelled);
        assert!(job.cancel());
        assert!(!job.cancel());
        gate.open();
        driven.until(|| done.get() == 2);
        driven.settle();
        assert_eq!((done.get(), cancelled.get()), (2, 1));
    }

    fn what_a_cancelled_job_holds_is_dropped_on_the_home(driven) {
        limit(&driven.aio, 0, 1);
        let (gate, done, cancelled) = (Gate::new(), Count::new(), Count::new());
        submit_gated(&driven.aio, &gate, &done, &cancelled);
        gate.wait_for(1);
        let (probe, drops) = drop_probe();
        let job = driven.aio.submit(move || probe.touch(), |_| ());
        std::thread::scope(|scope| {
            scope.spawn(move || job.cancel());
        });
        assert!(drops.threads().is_empty());
        driven.settle();
        assert_eq!(drops.threads(), [std::thread::current().id()]);
        gate.open();
        driven.until(|| done.get() == 1);
    }

    fn a_panicking_job_is_an_error_and_the_worker_goes_on(driven) {
        limit(&driven.aio, 0, 1);
        let (told, done) = (Slot::new(), Count::new());
        let (there, hit) = (told.clone(), done.hitter());
        driven.aio.submit(|| panic!("boom"), move |result: gsource::Result<()>| {
            there.put(result.unwrap_err());
        });
        driven.aio.submit(|| (), move |_| hit());
        driven.until(|| done.get() == 1);
        let error = told.take().unwrap();
        assert_eq!(error.kind(), ErrorKind::Panicked);
        assert_eq!(error.to_string(), "the job panicked: boom");
        assert_eq!(driven.aio.pool().threads(), 1);
    }

    fn a_panicking_completion_harms_no_other(driven) {
        let done = Count::new();
        driven.aio.submit(|| (), |_| panic!("in a completion"));
        let hit = done.hitter();
        driven.aio.submit(|| (), move |_| hit());
        driven.until(|| done.get() == 1);
    }

    fn a_completion_may_submit_and_iterate(driven) {
        let (journal, nested) = (Journal::new(), driven.nested());
        let (inner, outer) = (journal.clone(), journal.clone());
        let weak = Arc::downgrade(driven);
        driven.aio.submit(|| (), move |_| {
            let seen = Count::new();
            let (hit, note) = (seen.hitter(), inner.clone());
            weak.upgrade().unwrap().aio.submit(|| (), move |_| {
                note.note("inner");
                hit();
            });
            while seen.get() == 0 {
                nested(Wait::Block);
            }
            outer.note("outer");
        });
        driven.until(|| journal.text().ends_with("outer"));
        assert_eq!(journal.text(), "inner outer");
    }

    fn a_dropped_handle_cancels_nothing(driven) {
        let done = Count::new();
        let hit = done.hitter();
        drop(driven.aio.submit(|| (), move |result| { result.unwrap(); hit(); }));
        driven.until(|| done.get() == 1);
    }
}

both_threads! {
    fn submissions_of_many_threads_are_completed_one_at_a_time_on_the_home(running) {
        let (sum, inside, over) = (Count::new(), Count::new(), signalled());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let (sum, inside, over) = (sum.clone(), inside.clone(), over.0.clone());
                        let home = running.home;
                        running.aio.submit(|| 1, move |result| {
                            assert_eq!(std::thread::current().id(), home);
                            assert_eq!(inside.hit(), sum.get() + result.unwrap());
                            if sum.hit() == 200 {
                                over.send(()).unwrap();
                            }
                        });
                    }
                });
            }
        });
        over.1.recv().unwrap();
        assert_eq!(sum.get(), 200);
    }

    fn a_sleeping_home_is_woken_by_a_result(running) {
        let (gate, over) = (Gate::new(), signalled());
        let (held, tell) = (gate.clone(), over.0);
        running.aio.submit(move || held.pass(), move |_| tell.send(()).unwrap());
        gate.wait_for(1);
        running.wait_asleep();
        gate.open();
        over.1.recv().unwrap();
    }

    fn jobs_cancelled_from_other_threads_are_told_once_each(running) {
        limit(&running.aio, 0, 2);
        let (gate, done, cancelled) = (Gate::new(), Count::new(), Count::new());
        gate.open();
        let (over, is_over) = signalled();
        let jobs: Vec<_> = (0..500)
            .map(|_| submit_gated(&running.aio, &gate, &done, &cancelled))
            .collect();
        let taken: usize = std::thread::scope(|scope| {
            let halves = jobs.chunks(250).map(|jobs| {
                scope.spawn(|| jobs.iter().rev().filter(|job| job.cancel()).count())
            });
            halves.collect::<Vec<_>>().into_iter().map(|half| half.join().unwrap()).sum()
        });
        // Workers report before they take the next one, so only two can be on their way now.
        let (poll, all) = (running.aio.clone(), done.clone());
        running.aio.schedule_oneshot("wait", move || {
            while all.get() < 500 {
                poll.poll(Wait::NoBlock).unwrap();
            }
            over.send(()).unwrap();
        });
        is_over.recv().unwrap();
        assert_eq!((done.get(), cancelled.get()), (500, taken));
        assert_eq!(gate.arrivals(), 500 - taken);
    }
}

#[test]
fn limits_that_contradict_are_refused_by_name_and_change_nothing() {
    let reactor = Reactor::new().unwrap();
    let refused = |min, max| {
        let error = reactor.set_pool_limits(PoolLimits { min, max });
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        error.to_string()
    };
    let bad = "bad thread-pool-min/thread-pool-max values";
    assert_eq!(refused(5, 4), bad);
    assert_eq!(refused(0, 0), bad);
    assert_eq!(refused(0, 1 << 31), bad);
    let range = "value must be in range [0, 9223372036854775807]";
    assert_eq!(refused(-1, 4), format!("thread-pool-min {range}"));
    assert_eq!(refused(0, -1), format!("thread-pool-max {range}"));
    assert_eq!(reactor.pool_limits(), PoolLimits { min: 0, max: 64 });
}

#[test]
fn contexts_of_one_home_share_its_pool() {
    let _deadline = deadline("contexts_of_one_home_share_its_pool");
    let reactor = Reactor::new().unwrap();
    reactor
        .set_pool_limits(PoolLimits { min: 0, max: 1 })
        .unwrap();
    let (one, other) = (AioContext::new().unwrap(), AioContext::new().unwrap());
    one.attach_to(&reactor).unwrap();
    other.attach_to(&reactor).unwrap();
    let (gate, done, cancelled) = (Gate::new(), Count::new(), Count::new());
    submit_gated(&one, &gate, &done, &cancelled);
    gate.wait_for(1);
    submit_gated(&other, &gate, &done, &cancelled);
    assert_eq!((reactor.pool().threads(), reactor.pool().queued()), (1, 1));
    gate.open();
    while done.get() < 2 {
        reactor.iterate(Wait::Block).unwrap();
    }
}

#[test]
fn results_follow_a_context_that_moves() {
    let _deadline = deadline("results_follow_a_context_that_moves");
    let (from, to) = (Reactor::new().unwrap(), Reactor::new().unwrap());
    let aio = AioContext::new().unwrap();
    aio.attach_to(&from).unwrap();
    from.set_pool_limits(PoolLimits { min: 0, max: 1 }).unwrap();
    let (gate, done, cancelled) = (Gate::new(), Count::new(), Count::new());
    for _ in 0..3 {
        submit_gated(&aio, &gate, &done, &cancelled);
    }
    gate.wait_for(1);
    aio.detach().unwrap();
    aio.attach_to(&to).unwrap();
    drop(from);
    gate.open();
    while done.get() < 3 {
        to.iterate(Wait::Block).unwrap();
    }
    assert_eq!((gate.arrivals(), cancelled.get()), (3, 0));
}

/// A job runs and others wait when the last handle of their context goes.
#[test]
fn a_context_torn_down_drops_queued_jobs_and_lets_running_ones_finish() {
    let _deadline = deadline("a_context_torn_down_drops_queued_jobs");
    let aio = AioContext::new().unwrap();
    limit(&aio, 0, 1);
    let gate = Gate::new();
    let (result, result_dropped) = drop_probe();
    let (done, done_dropped) = drop_probe();
    let held = gate.clone();
    aio.submit(
        move || {
            held.pass();
            result
        },
        move |_| done.touch(),
    );
    gate.wait_for(1);
    let (queued, queued_dropped) = drop_probe();
    let job = aio.submit(move || queued.touch(), |_| panic!("not called"));
    let pool = aio.pool();
    drop(aio);
    let here = std::thread::current().id();
    assert_eq!(done_dropped.threads(), [here], "at once, uncalled");
    assert_eq!(queued_dropped.threads(), [here]);
    assert!(!job.cancel());
    assert_eq!(pool.queued(), 0);
    assert!(result_dropped.threads().is_empty(), "still running");
    gate.open();
    assert_ne!(result_dropped.wait(), here, "nobody wants it");
    while pool.threads() > 0 {
        std::thread::yield_now();
    }
}

#[test]
fn a_result_that_nobody_has_fetched_goes_with_its_context() {
    let _deadline = deadline("a_result_that_nobody_has_fetched_goes_with_its_context");
    let aio = AioContext::new().unwrap();
    limit(&aio, 0, 1);
    let (result, result_dropped) = drop_probe();
    aio.submit(move || result, |_| panic!("not called"));
    let (next, is_next) = signalled();
    aio.submit(move || next.send(()).unwrap(), |_| ());
    is_next.recv().unwrap();
    drop(aio);
    assert_eq!(result_dropped.threads(), [std::thread::current().id()]);
}

#[test]
fn contexts_torn_down_while_jobs_finish_lose_nothing_that_must_be_dropped() {
    let _deadline = deadline("contexts_torn_down_while_jobs_finish");
    for _ in 0..300 {
        let aio = AioContext::new().unwrap();
        let (result, result_dropped) = drop_probe();
        let (done, done_dropped) = drop_probe();
        aio.submit(move || result, move |_| done.touch());
        std::thread::yield_now();
        drop(aio);
        assert_eq!(done_dropped.wait(), std::thread::current().id());
        result_dropped.wait();
    }
}
