//! Tasks: when and where they run, how they are woken, and how they end.
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::shadow_unrelated)] // a test fails by panicking, and names its steps alike

use gsource::{AioContext, Clock, ErrorKind, EventNotifier, JoinHandle, Wait};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::task::Poll;
use support::loops::{Count, Journal, Yield, drop_probe, finish, never};
use support::{both_loops, both_threads};

both_loops! {
    fn a_task_begins_in_an_iteration_and_its_output_is_the_handles(driven) {
        let begun = Rc::new(Cell::new(false));
        let seen = Rc::clone(&begun);
        let task = driven.aio.spawn_local(async move {
            seen.set(true);
            Rc::new(7)
        }).unwrap();
        assert!(!begun.get() && !task.is_finished());
        assert_eq!(*finish(driven, &task).unwrap(), 7);
        assert!(task.is_finished() && task.try_take().is_none());
    }

    fn a_task_that_wakes_itself_is_polled_once_per_iteration(driven) {
        let polls = Count::new();
        let hit = polls.hitter();
        let task = driven.aio.spawn_local(async move {
            loop {
                hit();
                Yield::default().await;
            }
        }).unwrap();
        for round in 1..=20 {
            assert!(driven.iterate(Wait::NoBlock));
            assert_eq!(polls.get(), round);
        }
        drop(task);
        driven.settle();
        assert_eq!(polls.get(), 20);
    }

    fn tasks_take_turns(driven) {
        let journal = Journal::new();
        let tasks: Vec<_> = ["a", "b"].map(|name| {
            let note = journal.noter(name);
            driven.aio.spawn_local(async move {
                for _ in 0..3 {
                    note();
                    Yield::default().await;
                }
            }).unwrap()
        }).into();
        driven.until(|| tasks.iter().all(JoinHandle::is_finished));
        assert_eq!(journal.text(), "a b a b a b");
    }

    fn wakes_from_other_threads_coalesce(driven) {
        let (never, polls, waker) = never();
        let task = driven.aio.spawn_local(never).unwrap();
        driven.settle();
        assert_eq!(polls.get(), 1);
        let waker = waker.lock().unwrap().clone().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| waker.wake_by_ref()));
            }
        });
        driven.settle();
        assert_eq!(polls.get(), 2);
        drop(task);
        driven.settle();
        waker.wake();
        driven.settle();
        assert_eq!(polls.get(), 2, "a waker may outlive its task");
    }

    fn dropping_the_handle_ends_the_task_in_an_iteration(driven) {
        let (never, polls, _waker) = never();
        let (probe, drops) = drop_probe();
        let task = driven.aio.spawn_local(async move {
            probe.touch();
            never.await;
        }).unwrap();
        driven.settle();
        drop(task);
        assert!(drops.threads().is_empty());
        driven.settle();
        assert_eq!(drops.threads(), [std::thread::current().id()]);
        assert_eq!(polls.get(), 1);
    }

    fn an_aborted_task_is_told_as_cancelled(driven) {
        let (never, polls, _waker) = never();
        let task = driven.aio.spawn_local(never).unwrap();
        driven.settle();
        task.abort();
        let error = finish(driven, &task).unwrap_err();
        assert_eq!((error.kind(), error.errno()), (ErrorKind::Cancelled, libc::ECANCELED));
        assert_eq!(polls.get(), 1);
    }

    fn aborting_what_is_over_changes_nothing(driven) {
        let task = driven.aio.spawn_local(async { 3 }).unwrap();
        driven.until(|| task.is_finished());
        task.abort();
        driven.settle();
        assert_eq!(task.try_take().unwrap().unwrap(), 3);
    }

    fn a_task_aborted_before_its_first_poll_never_runs(driven) {
        let task = driven.aio.spawn_local(async { panic!("not polled") }).unwrap();
        task.abort();
        assert_eq!(finish(driven, &task).unwrap_err().kind(), ErrorKind::Cancelled);
    }

    fn a_detached_task_runs_on(driven) {
        let done = Count::new();
        let hit = done.hitter();
        driven.aio.spawn_local(async move {
            Yield::default().await;
            hit();
        }).unwrap().detach();
        driven.until(|| done.get() == 1);
    }

    fn a_panicking_task_takes_no_other_down(driven) {
        let bad = driven.aio.spawn_local(async {
            Yield::default().await;
            panic!("boom");
        }).unwrap();
        let good = driven.aio.spawn_local(async {
            Yield::default().await;
            Yield::default().await;
            1
        }).unwrap();
        assert_eq!(finish(driven, &good).unwrap(), 1);
        let error: gsource::Error = finish::<()>(driven, &bad).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Panicked);
        assert_eq!(error.to_string(), "the task panicked: boom");
    }

    fn a_task_awaits_another(driven) {
        let inner = driven.aio.spawn_local(async {
            Yield::default().await;
            Rc::new(20)
        }).unwrap();
        let outer = driven.aio.spawn_local(async move { *inner.await.unwrap() + 1 }).unwrap();
        assert_eq!(finish(driven, &outer).unwrap(), 21);
    }

    fn a_task_spawns_tasks(driven) {
        let aio = driven.aio.clone();
        let task = driven.aio.spawn_local(async move {
            let local = aio.spawn_local(async { 1 }).unwrap();
            let built = aio.spawn(|| async { 2 });
            local.await.unwrap() + built.await.unwrap()
        }).unwrap();
        assert_eq!(finish(driven, &task).unwrap(), 3);
    }

    fn a_task_that_iterates_is_not_polled_inside_its_own_poll(driven) {
        let (inside, nested) = (Rc::new(Cell::new(false)), driven.nested());
        let weak = Arc::downgrade(driven);
        let task = driven.aio.spawn_local(std::future::poll_fn(move |context| {
            assert!(!inside.replace(true), "polled inside its own poll");
            let other = weak.upgrade().unwrap().aio.spawn_local(async { 5 }).unwrap();
            context.waker().wake_by_ref();
            while !other.is_finished() {
                nested(Wait::Block);
            }
            inside.set(false);
            Poll::Ready(other.try_take().unwrap().unwrap())
        })).unwrap();
        assert_eq!(finish(driven, &task).unwrap(), 5);
    }

    fn a_wake_that_a_nested_iteration_has_swallowed_is_made_up_for(driven) {
        let nested = driven.nested();
        let mut polls = 0;
        let task = driven.aio.spawn_local(std::future::poll_fn(move |context| {
            polls += 1;
            if polls == 2 {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            nested(Wait::NoBlock);
            Poll::Pending
        })).unwrap();
        finish(driven, &task).unwrap();
    }

    fn a_task_may_abort_itself_and_end_all(driven) {
        let (probe, drops) = drop_probe();
        let aio = driven.aio.clone();
        let task = driven.aio.spawn_local(async move {
            probe.touch();
            aio.cancel_tasks().unwrap();
            Yield::default().await;
            panic!("polled after its end");
        }).unwrap();
        let error: gsource::Error = finish::<()>(driven, &task).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert_eq!(drops.threads().len(), 1);
    }
}

both_threads! {
    fn a_task_spawned_from_elsewhere_is_built_and_run_on_the_home(running) {
        let (send, outcome) = channel();
        let home = running.home;
        let aio = running.aio.clone();
        running.aio.spawn(move || {
            let local = Rc::new(std::thread::current().id());
            async move {
                aio.sleep_ns(Clock::Realtime, 1_000).await;
                send.send((*local, std::thread::current().id())).unwrap();
            }
        }).detach();
        assert_eq!(outcome.recv().unwrap(), (home, home));
    }

    fn a_handle_is_awaited_and_aborted_on_other_threads(running) {
        let good = running.aio.spawn(|| async { 6 * 7 });
        let (never, polls, _waker) = never();
        let bad = running.aio.spawn(|| never);
        let elsewhere = AioContext::new().unwrap();
        let both = elsewhere.spawn_local(async move {
            let answer = good.await.unwrap();
            bad.abort();
            (answer, bad.await.unwrap_err().kind())
        }).unwrap();
        while !both.is_finished() {
            elsewhere.poll(Wait::Block).unwrap();
        }
        assert_eq!(both.try_take().unwrap().unwrap(), (42, ErrorKind::Cancelled));
        assert!(polls.get() <= 1);
    }

    fn a_recipe_that_panics_is_told(running) {
        let aio = running.aio.clone();
        let told = running.aio.spawn(move || {
            let failed = aio.spawn(|| -> std::future::Ready<()> { panic!("no future") });
            async move { failed.await.unwrap_err().kind() }
        });
        let (send, outcome) = channel();
        running.aio.spawn(move || async move { send.send(told.await).unwrap() }).detach();
        assert_eq!(outcome.recv().unwrap().unwrap(), ErrorKind::Panicked);
    }

    fn spawn_local_away_from_the_home_is_refused(running) {
        // Also while GLib waits and does not own the context.
        running.wait_asleep();
        let refused = running.aio.spawn_local(async { panic!("not spawned") });
        let error: gsource::Error = refused.map(JoinHandle::<()>::detach).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongThread);
    }

    fn wakes_against_a_home_that_falls_asleep_are_never_lost(running) {
        let ask = Arc::new(EventNotifier::new().unwrap());
        let (send, answers) = channel();
        let (aio, waiter) = (running.aio.clone(), Arc::clone(&ask));
        running.aio.spawn(move || async move {
            for _ in 0..2000 {
                waiter.wait(&aio).await.unwrap();
                send.send(()).unwrap();
            }
        }).detach();
        for _ in 0..2000 {
            ask.signal();
            answers.recv().unwrap();
        }
    }
}
