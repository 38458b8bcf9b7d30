//! Stopping a context: from which threads, who waits for the end, and which sources and AioContexts are given back.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::shadow_unrelated)] // a test fails by panicking, and names its steps alike

use qcontext::{AioContext, Clock, ErrorKind, EventNotifier, FdHandler, QContext, Wait};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use support::context::{home_of, idle_source};
use support::deadline::deadline;
use support::loops::drop_probe;

// Hazard 21 of docs/predecessor-hazards.md: a context that joins itself.
#[test]
fn stop_from_its_own_thread_is_refused_and_it_goes_on() {
    let _deadline = deadline("stop_from_its_own_thread_is_refused_and_it_goes_on");
    let context = QContext::new("hazard21", true).unwrap();
    let same = context.clone();
    let error = context
        .invoke_sync(move || same.stop().unwrap_err())
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::WouldDeadlock);
    assert_eq!(context.invoke_sync(|| 3).unwrap(), 3);
    context.stop().unwrap();
    context.stop().unwrap();
    assert_eq!(context.thread_id(), -1);
    assert_eq!(context.invoke(|| ()).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(
        context.invoke_sync(|| ()).unwrap_err().kind(),
        ErrorKind::Closed
    );
    let closed = context.set_fd_handler(0, FdHandler::new().on_read(|| ()));
    assert_eq!(closed.unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn stop_by_many_threads_returns_to_each_after_the_end() {
    let _deadline = deadline("stop_by_many_threads_returns_to_each_after_the_end");
    for round in 0..50 {
        let context = QContext::new(&format!("stop-many-{round}"), true).unwrap();
        let (began, has_begun) = channel();
        context
            .invoke(move || {
                began.send(()).unwrap();
                (0..20).for_each(|_| std::thread::yield_now());
            })
            .unwrap();
        has_begun.recv().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    context.stop().unwrap();
                    assert_eq!(context.thread_id(), -1, "the thread has ended");
                });
            }
        });
    }
}

#[test]
fn last_handle_dropped_on_its_own_thread_ends_the_context() {
    let _deadline = deadline("last_handle_dropped_on_its_own_thread_ends_the_context");
    let context = QContext::new("own-end", true).unwrap();
    let (probe, drops) = drop_probe();
    let notifier = EventNotifier::new().unwrap();
    let handler = FdHandler::new().on_read(move || {
        probe.touch();
    });
    context
        .set_fd_handler(notifier.as_raw_fd(), handler)
        .unwrap();
    let home = home_of(&context);
    let same = context.clone();
    context.invoke(move || drop(same)).unwrap();
    drop(context);
    assert_eq!(drops.wait(), home);
    assert!(QContext::find("own-end").is_err());
}

// Hazard 27 of docs/predecessor-hazards.md: stopping while the thread may be dispatching, sources that are never destroyed.
#[test]
fn stop_waits_for_what_runs_and_gives_back_what_was_attached() {
    let _deadline = deadline("stop_waits_for_what_runs_and_gives_back_what_was_attached");
    let context = QContext::new("hazard27", true).unwrap();
    let aio = AioContext::new().unwrap();
    context.attach(&aio, Some("disk")).unwrap();
    assert!(
        context
            .find_aio("disk")
            .is_some_and(|found| found.is_same(&aio))
    );
    let (over, hits) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let (began, has_begun) = channel();
    let flag = Arc::clone(&over);
    let bh = aio.bh("slow", move || {
        began.send(()).unwrap();
        (0..50).for_each(|_| std::thread::yield_now());
        flag.store(true, Ordering::SeqCst);
    });
    let source = idle_source(&hits, usize::MAX);
    context.attach_source(&source, None).unwrap();
    bh.schedule();
    has_begun.recv().unwrap();
    context.stop().unwrap();
    assert!(over.load(Ordering::SeqCst), "stop has waited");
    assert!(source.is_destroyed());
    let after = hits.load(Ordering::SeqCst);
    drop(bh);
    let (ran, late) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (ran_here, fired) = (Arc::clone(&ran), Arc::clone(&late));
    let bh = aio.bh("test", move || {
        ran_here.fetch_add(1, Ordering::SeqCst);
    });
    let timer = aio.timer(Clock::Realtime, move || {
        fired.fetch_add(1, Ordering::SeqCst);
    });
    bh.schedule();
    timer.arm_at_ns(0);
    while aio.poll(Wait::NoBlock).unwrap() {}
    assert_eq!(
        (ran.load(Ordering::SeqCst), late.load(Ordering::SeqCst)),
        (1, 1)
    );
    assert_eq!(hits.load(Ordering::SeqCst), after);
    QContext::new("hazard27-next", true)
        .unwrap()
        .attach(&aio, None)
        .unwrap();
}

#[test]
fn what_a_context_says_it_has_no_more_can_be_attached_elsewhere() {
    let _deadline = deadline("what_a_context_says_it_has_no_more_can_be_attached_elsewhere");
    let contexts = [1, 2].map(|n| QContext::new(&format!("hand-over-{n}"), true).unwrap());
    let aio = AioContext::new().unwrap();
    contexts[0].attach(&aio, None).unwrap();
    for turn in 0..5_000 {
        let (from, to) = (&contexts[turn % 2], &contexts[(turn + 1) % 2]);
        from.detach(&aio);
        while from.has_aio(&aio) {
            std::hint::spin_loop();
        }
        to.attach(&aio, None).unwrap();
    }
}
