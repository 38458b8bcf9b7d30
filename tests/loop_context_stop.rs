//! Stopping a context: from which threads, who waits for the end, and which sources and AioContexts are given back.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::shadow_unrelated)] // a test fails by panicking, and names its steps alike

use qcontext::{AioContext, Clock, ErrorKind, EventNotifier, FdHandler, QContext, Wait};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
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

/// Tells when it is dropped, and waits for an answer.
struct MeetsAtDrop(Sender<()>, Receiver<()>);

impl Drop for MeetsAtDrop {
    fn drop(&mut self) {
        self.0.send(()).unwrap();
        self.1.recv().unwrap();
    }
}

/// While the context stops, another thread asks for what it has not come to yet.
#[test]
fn what_a_stopping_context_has_not_given_back_it_still_says_it_has() {
    let _deadline = deadline("what_a_stopping_context_has_not_given_back_it_still_says_it_has");
    let [first, second] = [(); 2].map(|()| AioContext::new().unwrap());
    let [context, next] = ["gives-back", "takes"].map(|id| QContext::new(id, true).unwrap());
    context.attach(&first, None).unwrap();
    context.attach(&second, None).unwrap();
    let ((meet, met), (go, may_go)) = (channel(), channel());
    let last = MeetsAtDrop(meet, may_go);
    first
        .spawn(move || async move {
            let _last = last;
            std::future::pending::<()>().await;
        })
        .detach();
    context.invoke_sync(|| ()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| context.stop().unwrap());
        met.recv().unwrap();
        let has_it = context.has_aio(&second);
        go.send(()).unwrap();
        assert!(has_it, "it is attached");
    });
    assert!(!context.has_aio(&second));
    next.attach(&second, None).unwrap();
}

/// Moves as the C function makes them, while other threads stop the contexts. Only the context that stops may refuse.
#[test]
fn moves_against_stops_are_never_refused_because_of_the_context_that_was_left() {
    let _deadline =
        deadline("moves_against_stops_are_never_refused_because_of_the_context_that_was_left");
    let aio = AioContext::new().unwrap();
    let mut home = QContext::anonymous(true).unwrap();
    home.attach(&aio, None).unwrap();
    for _ in 0..1_000 {
        let next = QContext::anonymous(true).unwrap();
        let meet = Barrier::new(3);
        let attached = std::thread::scope(|scope| {
            for context in [&home, &next] {
                let meet = &meet;
                scope.spawn(move || {
                    meet.wait();
                    context.stop().unwrap();
                });
            }
            meet.wait();
            home.detach(&aio);
            if home.has_aio(&aio) {
                home.detach_sync(&aio).unwrap();
            }
            next.attach(&aio, None)
        });
        if let Err(error) = attached {
            assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        }
        assert!(!next.has_aio(&aio), "it has stopped");
        home = QContext::anonymous(true).unwrap();
        home.attach(&aio, None).unwrap();
    }
}

#[test]
fn invoked_work_is_dropped_although_others_have_the_aio_context() {
    let _deadline = deadline("invoked_work_is_dropped_although_others_have_the_aio_context");
    for iterate in [false, true] {
        let context = QContext::anonymous(false).unwrap();
        let kept = context.aio().unwrap();
        if iterate {
            while context.main_context().iteration(false) {}
        }
        let (probe, drops) = drop_probe();
        context.invoke(move || probe.touch()).unwrap();
        context.stop().unwrap();
        assert_eq!(drops.threads().len(), 1, "no thread can run it any more");
        // It is given back, with its bottom halves.
        let ran = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ran);
        let bh = kept.bh("kept", move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        bh.schedule();
        let next = QContext::anonymous(false).unwrap();
        next.attach(&kept, None).unwrap();
        assert!(next.iterate(Wait::Block).unwrap());
        assert_eq!(ran.load(Ordering::SeqCst), 1);
        next.stop().unwrap();
    }
}

/// The context watches the fds of GSources with its own AioContext.
#[test]
fn an_aio_context_that_outlives_its_context_keeps_no_fd_of_that() {
    let _deadline = deadline("an_aio_context_that_outlives_its_context_keeps_no_fd_of_that");
    for threaded in [false, true] {
        let context = QContext::anonymous(threaded).unwrap();
        let kept = context.aio().unwrap();
        context.stop().unwrap();
        drop(context);
        assert!(format!("{kept:?}").contains("handlers: 0"), "{kept:?}");
        assert!(!kept.poll(Wait::NoBlock).unwrap());
    }
}
