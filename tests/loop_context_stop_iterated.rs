//! Stopping an unthreaded context while another thread iterates it, in each way there is.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::shadow_unrelated)] // a test fails by panicking, and names its steps alike

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::Scope;

use qcontext::{AioContext, ErrorKind, QContext, Wait};
use support::context::idle_source;
use support::deadline::{deadline, wait_for};
use support::loops::{Count, drop_probe, watched_notifier};

/// A context without a thread, and something attached to it.
struct Iterated {
    context: QContext,
    aio: AioContext,
    over: AtomicBool,
}

impl Iterated {
    fn new() -> Iterated {
        let context = QContext::anonymous(false).unwrap();
        let aio = AioContext::new().unwrap();
        context.attach(&aio, Some("disk")).unwrap();
        Iterated {
            context,
            aio,
            over: AtomicBool::new(false),
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

/// Iterates until the context stops, or the test is over.
type Iterate = fn(&Iterated);

/// The last one iterates once, and does not come back.
const WAYS: [(&str, Iterate); 4] = [
    ("its own iteration", |one| {
        while one.context.iterate(Wait::Block).is_ok() {}
    }),
    ("GLib's iteration", |one| {
        while !one.is_over() {
            one.context.main_context().iteration(true);
        }
    }),
    ("a poll of what is attached", |one| {
        while !one.is_over() {
            // Refused while the context is torn down.
            let _ = one.aio.poll(Wait::Block);
        }
    }),
    ("one iteration of GLib's", |one| {
        one.context.main_context().iteration(true);
    }),
];

/// Iterates on another thread. Returns when that is inside a callback, which goes on for a while.
fn iterate<'a>(scope: &'a Scope<'a, '_>, one: &'a Iterated, iterate: Iterate) -> Arc<AtomicBool> {
    let (began, has_begun) = channel();
    let returned = Arc::new(AtomicBool::new(false));
    one.aio.schedule_oneshot("slow", slow(began, &returned));
    scope.spawn(move || iterate(one));
    has_begun.recv().unwrap();
    returned
}

fn slow(began: Sender<()>, returned: &Arc<AtomicBool>) -> impl FnOnce() + Send + 'static {
    let returned = Arc::clone(returned);
    move || {
        began.send(()).unwrap();
        (0..50).for_each(|_| std::thread::yield_now());
        returned.store(true, Ordering::SeqCst);
    }
}

fn stopped_while_iterated(name: &str, way: Iterate) {
    let one = Iterated::new();
    let (notifier, reads) = watched_notifier(&one.aio);
    let idle = Arc::default();
    let source = idle_source(&idle, usize::MAX);
    one.context.attach_source(&source, None).unwrap();
    let own = Count::new();
    std::thread::scope(|scope| {
        let returned = iterate(scope, &one, way);
        one.context.stop().unwrap();
        assert!(returned.load(Ordering::SeqCst), "{name}: stop has waited");
        let after = idle.load(Ordering::SeqCst);
        assert!(
            source.is_destroyed() && !one.context.has_aio(&one.aio),
            "{name}"
        );
        let closed = one.context.invoke(own.hitter()).unwrap_err();
        assert_eq!(closed.kind(), ErrorKind::Closed);
        assert_eq!(
            one.context.iterate(Wait::NoBlock).unwrap_err().kind(),
            ErrorKind::Closed
        );
        assert_eq!(
            idle.load(Ordering::SeqCst),
            after,
            "{name}: nothing runs any more"
        );
        one.over.store(true, Ordering::SeqCst);
        one.aio.notify();
        one.context.main_context().wakeup();
    });
    assert_eq!(own.get(), 0);
    // It keeps what it had, and can go anywhere.
    let next = QContext::anonymous(true).unwrap();
    next.attach(&one.aio, None).unwrap();
    notifier.signal();
    wait_for("the handler", || (reads.get() == 1).then_some(()));
    next.detach_sync(&one.aio).unwrap();
    next.stop().unwrap();
}

#[test]
fn stop_waits_for_the_thread_that_iterates_and_everything_is_given_back() {
    let _deadline =
        deadline("stop_waits_for_the_thread_that_iterates_and_everything_is_given_back");
    for (name, way) in WAYS {
        for _ in 0..50 {
            stopped_while_iterated(name, way);
        }
    }
}

/// The loop sleeps in GLib, and is not ended by the stop.
#[test]
fn stop_under_a_sleeping_loop_of_glib_returns() {
    let _deadline = deadline("stop_under_a_sleeping_loop_of_glib_returns");
    for _ in 0..50 {
        let one = Iterated::new();
        let gmain = one.context.main_context();
        let main_loop = glib::MainLoop::new(Some(&gmain), false);
        let running = main_loop.clone();
        let thread = std::thread::spawn(move || running.run());
        one.context.invoke_sync(|| ()).unwrap();
        one.context.stop().unwrap();
        assert!(!one.context.has_aio(&one.aio));
        assert!(
            !one.aio.poll(Wait::NoBlock).unwrap(),
            "it is driven no more"
        );
        main_loop.quit();
        thread.join().unwrap();
    }
}

#[test]
fn stop_by_many_threads_returns_to_each_after_the_end_of_an_iterated_context() {
    let _deadline =
        deadline("stop_by_many_threads_returns_to_each_after_the_end_of_an_iterated_context");
    for (name, way) in WAYS {
        let one = Iterated::new();
        std::thread::scope(|scope| {
            let _ = iterate(scope, &one, way);
            let stops = [(); 3].map(|()| {
                scope.spawn(|| {
                    one.context.stop().unwrap();
                    assert!(!one.context.has_aio(&one.aio), "{name}");
                })
            });
            stops.into_iter().for_each(|stop| stop.join().unwrap());
            one.over.store(true, Ordering::SeqCst);
            one.aio.notify();
            one.context.main_context().wakeup();
        });
    }
}

#[test]
fn stop_inside_a_callback_of_an_unthreaded_context_is_refused_and_it_goes_on() {
    let _deadline =
        deadline("stop_inside_a_callback_of_an_unthreaded_context_is_refused_and_it_goes_on");
    let turns: [fn(&QContext); 2] = [
        |context| assert!(context.iterate(Wait::Block).unwrap()),
        |context| assert!(context.main_context().iteration(true)),
    ];
    for turn in turns {
        let one = Iterated::new();
        let (same, (tell, told)) = (one.context.clone(), channel());
        one.aio.schedule_oneshot("stops", move || {
            tell.send(same.stop().unwrap_err()).unwrap();
        });
        turn(&one.context);
        assert_eq!(told.recv().unwrap().kind(), ErrorKind::WouldDeadlock);
        assert!(one.context.has_aio(&one.aio));
        one.aio.schedule_oneshot("goes on", || ());
        turn(&one.context);
        one.context.stop().unwrap();
        one.aio.detach().unwrap();
    }
}

/// As hazard 21 of docs/predecessor-hazards.md, with two contexts.
#[test]
fn contexts_that_would_stop_each_other_are_told() {
    let _deadline = deadline("contexts_that_would_stop_each_other_are_told");
    let [first, second] = ["stops-1", "stops-2"].map(|id| QContext::new(id, true).unwrap());
    let (one, other) = (first.clone(), second.clone());
    let refused = first
        .invoke_sync(move || other.invoke_sync(move || one.stop().unwrap_err()).unwrap())
        .unwrap();
    assert_eq!(refused.kind(), ErrorKind::WouldDeadlock);
    first.invoke_sync(|| ()).unwrap();
    first.stop().unwrap();
    second.stop().unwrap();
}

/// Nothing waits for the end then, but it comes.
#[test]
fn the_last_handle_of_an_iterated_context_may_be_dropped() {
    let _deadline = deadline("the_last_handle_of_an_iterated_context_may_be_dropped");
    for _ in 0..50 {
        let Iterated { context, aio, .. } = Iterated::new();
        let (probe, drops) = drop_probe();
        context
            .attach_source(
                &glib::idle_source_new(None, glib::Priority::LOW, move || {
                    probe.touch();
                    glib::ControlFlow::Continue
                }),
                None,
            )
            .unwrap();
        let gmain = context.main_context();
        let main_loop = glib::MainLoop::new(Some(&gmain), false);
        let running = main_loop.clone();
        let thread = std::thread::spawn(move || running.run());
        context.invoke_sync(|| ()).unwrap();
        drop(context);
        drops.wait();
        // A context has it no more.
        let next = QContext::anonymous(false).unwrap();
        wait_for("the AioContext", || next.attach(&aio, None).ok());
        main_loop.quit();
        thread.join().unwrap();
    }
}

/// The last handle is dropped by a callback of the context itself.
#[test]
fn an_unthreaded_context_may_drop_its_own_last_handle() {
    let _deadline = deadline("an_unthreaded_context_may_drop_its_own_last_handle");
    let Iterated { context, aio, .. } = Iterated::new();
    let gmain = context.main_context();
    aio.schedule_oneshot("drops", move || drop(context));
    assert!(gmain.iteration(true));
    while gmain.iteration(false) {}
    QContext::anonymous(false)
        .unwrap()
        .attach(&aio, None)
        .unwrap();
}
