//! What binds a task to its thread, and how both end.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::shadow_unrelated)] // a test fails by panicking, and names its steps alike

use gsource::{AioContext, ErrorKind, Reactor, Wait};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::mpsc::channel;
use support::deadline::deadline;
use support::loops::{Count, Slot, Yield, drop_probe, never};

#[test]
fn the_tasks_of_a_context_that_is_torn_down_are_dropped_at_home() {
    let _deadline = deadline("the_tasks_of_a_context_that_is_torn_down");
    let (aio, home) = (AioContext::new().unwrap(), Reactor::new().unwrap());
    aio.attach_to(&home).unwrap();
    let (probe, drops) = drop_probe();
    let (never, polls, _waker) = never();
    let task = aio.spawn_local(async move {
        probe.touch();
        never.await;
    });
    let task = task.unwrap();
    home.iterate(Wait::NoBlock).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || drop(aio));
    });
    assert!(drops.threads().is_empty());
    home.iterate(Wait::NoBlock).unwrap();
    assert_eq!(drops.threads(), [std::thread::current().id()]);
    let error = task.try_take().unwrap().unwrap_err();
    assert_eq!((polls.get(), error.kind()), (1, ErrorKind::Cancelled));
}

#[test]
fn a_context_with_tasks_does_not_move() {
    let _deadline = deadline("a_context_with_tasks_does_not_move");
    let (home, aio) = (Reactor::new().unwrap(), AioContext::new().unwrap());
    let (never, _polls, _waker) = never();
    let task = aio.spawn_local(never).unwrap();
    assert_eq!(aio.attach_to(&home).unwrap_err().kind(), ErrorKind::Busy);
    drop(task);
    aio.poll(Wait::NoBlock).unwrap();
    aio.attach_to(&home).unwrap();
    let task = aio.spawn_local(async { 1 }).unwrap();
    assert_eq!(aio.detach().unwrap_err().kind(), ErrorKind::Busy);
    while !task.is_finished() {
        home.iterate(Wait::Block).unwrap();
    }
    aio.detach().unwrap();
    assert_eq!(task.try_take().unwrap().unwrap(), 1);
}

#[test]
fn a_context_that_cancels_its_tasks_may_move() {
    let _deadline = deadline("a_context_that_cancels_its_tasks_may_move");
    let (home, aio) = (Reactor::new().unwrap(), AioContext::new().unwrap());
    let (probe, drops) = drop_probe();
    let task = aio.spawn_local(async move {
        probe.touch();
        std::future::pending::<()>().await;
    });
    aio.poll(Wait::NoBlock).unwrap();
    aio.cancel_tasks().unwrap();
    assert_eq!(drops.threads(), [std::thread::current().id()]);
    aio.attach_to(&home).unwrap();
    drop(task);
}

#[test]
fn a_reactor_with_tasks_is_driven_by_their_thread_only() {
    let _deadline = deadline("a_reactor_with_tasks_is_driven_by_their_thread_only");
    let aio = AioContext::new().unwrap();
    let local = Rc::new(Cell::new(0));
    let (seen, count) = (Rc::clone(&local), Count::new());
    let task = aio.spawn_local(async move {
        loop {
            seen.set(seen.get() + 1);
            Yield::default().await;
        }
    });
    let refused = |error: gsource::Error| assert_eq!(error.kind(), ErrorKind::WrongThread);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            refused(aio.poll(Wait::NoBlock).unwrap_err());
            refused(aio.cancel_tasks().unwrap_err());
            let context = glib::MainContext::new();
            let source = aio.g_source().unwrap();
            source.attach(Some(&context));
            aio.schedule_oneshot("test", count.hitter());
            assert!(
                !context.iteration(false),
                "GLib's source is silent elsewhere"
            );
            source.destroy();
        });
    });
    assert_eq!((local.get(), count.get()), (0, 0));
    aio.poll(Wait::NoBlock).unwrap();
    assert_eq!((local.get(), count.get()), (1, 1));
    drop(task);
    aio.poll(Wait::NoBlock).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| aio.poll(Wait::NoBlock).unwrap());
    });
}

#[test]
fn the_end_of_a_thread_ends_its_tasks_there_and_frees_the_context() {
    let _deadline = deadline("the_end_of_a_thread_ends_its_tasks");
    let aio = AioContext::new().unwrap();
    let (probe, drops) = drop_probe();
    let (hold, held) = (Slot::new(), aio.clone());
    let thread = std::thread::spawn({
        let hold = hold.clone();
        move || {
            let task = held.spawn_local(async move {
                probe.touch();
                std::future::pending::<()>().await;
            });
            hold.put(task.unwrap());
            held.poll(Wait::NoBlock).unwrap();
        }
    });
    let id = thread.thread().id();
    thread.join().unwrap();
    assert_eq!(drops.wait(), id);
    let task = hold.take().unwrap();
    assert_eq!(
        task.try_take().unwrap().unwrap_err().kind(),
        ErrorKind::Cancelled
    );
    aio.poll(Wait::NoBlock).unwrap();
}

/// The last handle goes on another thread than that of the tasks, which keeps the context until it ends.
#[test]
fn a_context_dropped_away_from_its_tasks_ends_with_their_thread() {
    let _deadline = deadline("a_context_dropped_away_from_its_tasks");
    let aio = AioContext::new().unwrap();
    let (task_probe, task_dropped) = drop_probe();
    let (bh_probe, bh_dropped) = drop_probe();
    let bh = aio.bh("test", move || bh_probe.touch());
    let (go, wait) = channel::<()>();
    let (begun, has_begun) = channel();
    let weak = aio.clone();
    let thread = std::thread::spawn(move || {
        let task = weak.spawn_local(async move {
            task_probe.touch();
            std::future::pending::<()>().await;
        });
        task.unwrap().detach();
        weak.poll(Wait::NoBlock).unwrap();
        drop(weak);
        begun.send(()).unwrap();
        wait.recv().unwrap();
    });
    has_begun.recv().unwrap();
    drop(aio);
    drop(bh);
    assert!(task_dropped.threads().is_empty() && bh_dropped.threads().is_empty());
    go.send(()).unwrap();
    let id = thread.thread().id();
    thread.join().unwrap();
    assert_eq!((task_dropped.wait(), bh_dropped.wait()), (id, id));
}
