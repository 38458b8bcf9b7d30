//! Contexts: names, GSources, attaching, invoking, moving, and the mistakes of their predecessors.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::shadow_unrelated)] // a test fails by panicking, and names its steps alike

use qcontext::{AioContext, Clock, ErrorKind, EventNotifier, FdHandler, QContext, Wait};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::Duration;
use support::aio_load::put_under_load;
use support::context::{home_of, idle_source};
use support::deadline::deadline;

// Hazard 11 of docs/predecessor-hazards.md: a source whose prepare says yes is dispatched without check, that is never.
#[test]
fn source_that_is_ready_in_prepare_is_dispatched_and_then_there_is_silence() {
    let context = QContext::new("hazard11", false).unwrap();
    let hits = Arc::new(AtomicUsize::new(0));
    context.attach_source(&idle_source(&hits, 3), None).unwrap();
    for expected in 1..=3 {
        assert!(context.iterate(Wait::Block).unwrap());
        assert_eq!(hits.load(Ordering::SeqCst), expected);
    }
    assert!(!context.iterate(Wait::NoBlock).unwrap());
}

// Hazard 12 of docs/predecessor-hazards.md: iterating without having acquired the GMainContext.
#[test]
fn context_that_another_thread_iterates_is_refused() {
    let _deadline = deadline("context_that_another_thread_iterates_is_refused");
    let context = QContext::new("hazard12", false).unwrap();
    let (inside, is_inside) = channel();
    let (go, go_on) = channel::<()>();
    let go_on = Mutex::new(go_on);
    context
        .invoke(move || {
            inside.send(()).unwrap();
            go_on.lock().unwrap().recv().unwrap();
        })
        .unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(context.iterate(Wait::Block).unwrap()));
        is_inside.recv().unwrap();
        let error = context.iterate(Wait::NoBlock).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongThread);
        go.send(()).unwrap();
    });
    let threaded = QContext::new("hazard12-threaded", true).unwrap();
    let error = threaded.iterate(Wait::NoBlock).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongThread);
}

// Hazard 13 of docs/predecessor-hazards.md: a fixed buffer for the path, an error that is never set.
#[test]
fn names_of_any_length_are_found_or_refused() {
    let long = "n".repeat(5000);
    let error = QContext::find(&long).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let context = QContext::new(&long, false).unwrap();
    assert_eq!(QContext::find(&long).unwrap().id(), long);
    drop(context);
    assert!(QContext::find(&long).is_err());
    for bad in ["", "1a", "a b", "a/b", "#x", "a%s"] {
        assert_eq!(
            QContext::new(bad, false).unwrap_err().kind(),
            ErrorKind::InvalidId,
            "{bad}"
        );
        assert!(QContext::find(bad).is_err());
    }
}

// Hazard 14 of docs/predecessor-hazards.md: a lookup that meets an unnamed source.
#[test]
fn unnamed_and_absent_sources_are_not_found() {
    let context = QContext::new("hazard14", false).unwrap();
    let hits = Arc::new(AtomicUsize::new(0));
    assert!(context.find_source("nobody").is_none());
    context.attach_source(&idle_source(&hits, 1), None).unwrap();
    assert!(context.find_source("nobody").is_none() && context.find_source("").is_none());
    let named = idle_source(&hits, 1);
    context.attach_source(&named, Some("idle")).unwrap();
    assert_eq!(context.find_source("idle").as_ref(), Some(&named));
    assert!(context.find_aio("idle").is_none());
    let twin = idle_source(&hits, 1);
    let error = context.attach_source(&twin, Some("idle")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let error = context.attach_source(&named, Some("other")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
}

// Hazard 15 of docs/predecessor-hazards.md: removing by id, in whichever context has that id by default.
#[test]
fn destroying_a_source_leaves_one_of_the_same_number_elsewhere_alone() {
    let (one, other) = (
        QContext::new("hazard15-a", false).unwrap(),
        QContext::new("hazard15-b", false).unwrap(),
    );
    let (hits, others) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (mine, theirs) = (idle_source(&hits, 100), idle_source(&others, 100));
    one.attach_source(&mine, Some("idle")).unwrap();
    other.attach_source(&theirs, Some("idle")).unwrap();
    assert!(!other.destroy_source(&mine), "not attached there");
    assert!(one.destroy_source(&mine));
    assert!(!one.destroy_source(&mine));
    assert!(mine.is_destroyed() && !theirs.is_destroyed());
    assert!(one.find_source("idle").is_none());
    while one.iterate(Wait::NoBlock).unwrap() {}
    while others.load(Ordering::SeqCst) == 0 {
        other.iterate(Wait::NoBlock).unwrap();
    }
    assert_eq!(
        (hits.load(Ordering::SeqCst), others.load(Ordering::SeqCst)),
        (0, 1)
    );
}

// Hazard 19 of docs/predecessor-hazards.md: a failed registration that goes on anyway; a context that starts on the default GMainContext.
#[test]
fn taken_name_is_refused_and_the_first_context_stays() {
    let first = QContext::new("hazard19", true).unwrap();
    let (main_context, home) = (first.main_context(), home_of(&first));
    let error = QContext::new("hazard19", true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(home_of(&QContext::find("hazard19").unwrap()), home);
    assert_eq!(first.main_context(), main_context);
    assert_ne!(main_context, glib::MainContext::default());
    let error = QContext::new("qcontext-main", false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
}

// Hazard 20 of docs/predecessor-hazards.md: `threaded` is toggled at run time.
#[test]
fn threaded_is_a_boolean_that_cannot_be_changed() {
    let context = QContext::new("hazard20", true).unwrap();
    let id = context.thread_id();
    assert!(id > 0);
    let path = "/objects/hazard20";
    let value = qcontext::object::tree::get(path, "threaded").unwrap();
    assert_eq!(value, qcontext::object::Value::Bool(true));
    let refused =
        qcontext::object::tree::set(path, "threaded", qcontext::object::Value::Bool(false));
    assert!(refused.is_err());
    assert_eq!((context.is_threaded(), context.thread_id()), (true, id));
}

// Hazard 26 of docs/predecessor-hazards.md: the default name is not the main context's.
#[test]
fn main_context_is_found_under_its_name_and_listed_first() {
    let main = QContext::find("qcontext-main").unwrap();
    assert_eq!(
        (main.id(), main.is_threaded()),
        (QContext::main().id(), false)
    );
    assert_eq!(main.main_context(), glib::MainContext::default());
    assert_eq!(QContext::list()[0].id(), "qcontext-main");
    for refused in [main.stop(), QContext::delete("qcontext-main")] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Busy);
    }
}

// Hazard 28 of docs/predecessor-hazards.md: errors end the process.
#[test]
fn mistakes_are_errors_that_name_the_object() {
    let (context, other) = (
        QContext::new("hazard28", true).unwrap(),
        QContext::new("hazard28-b", true).unwrap(),
    );
    let aio = AioContext::new().unwrap();
    context.attach(&aio, Some("disk0")).unwrap();
    let twice = other.attach(&aio, None).unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::Busy);
    let fresh = AioContext::new().unwrap();
    let taken = context.attach(&fresh, Some("disk0")).unwrap_err();
    assert_eq!(
        taken.to_string(),
        "context 'hazard28' has a source named 'disk0' already"
    );
    let claim = context.claim("disk0").unwrap();
    let busy = QContext::delete("hazard28").unwrap_err();
    assert_eq!(
        busy.to_string(),
        "object 'hazard28' is in use by device 'disk0', can not be deleted"
    );
    drop(claim);
    QContext::delete("hazard28").unwrap();
    assert_eq!(
        QContext::delete("hazard28").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert!(context.claim("late").is_err());
}

// Hazard 29 of docs/predecessor-hazards.md: a notification that wakes the main loop only, a wait of more milliseconds than fit.
#[test]
fn notify_ends_the_wait_of_the_context_it_is_for() {
    let _deadline = deadline("notify_ends_the_wait_of_the_context_it_is_for");
    let context = QContext::new("hazard29", false).unwrap();
    let (never, hits) = (AioContext::new().unwrap(), Arc::new(AtomicUsize::new(0)));
    context.attach(&never, None).unwrap();
    let timer = never.timer(Clock::Realtime, || ());
    timer.arm_in_ns(i64::MAX);
    let far = glib::timeout_source_new(
        Duration::from_millis(u64::from(u32::MAX)),
        None,
        glib::Priority::DEFAULT,
        {
            let hits = Arc::clone(&hits);
            move || {
                hits.fetch_add(1, Ordering::SeqCst);
                glib::ControlFlow::Continue
            }
        },
    );
    context.attach_source(&far, None).unwrap();
    while context.iterate(Wait::NoBlock).unwrap() {}
    context.notify();
    context.iterate(Wait::Block).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| context.notify());
        context.iterate(Wait::Block).unwrap();
    });
    assert_eq!(hits.load(Ordering::SeqCst), 0);
}

#[test]
fn invoked_work_runs_in_order_on_the_thread_with_its_main_context_as_default() {
    let context = QContext::new("invoke", true).unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    for number in 0..100 {
        let order = Arc::clone(&order);
        context
            .invoke(move || order.lock().unwrap().push(number))
            .unwrap();
    }
    let default = context
        .invoke_sync(glib::MainContext::thread_default)
        .unwrap();
    assert_eq!(default, Some(context.main_context()));
    let current = context
        .invoke_sync(|| QContext::current().map(|found| found.id().to_owned()))
        .unwrap();
    assert_eq!(current.as_deref(), Some("invoke"));
    assert!(QContext::current().is_none());
    assert_eq!(*order.lock().unwrap(), (0..100).collect::<Vec<_>>());
}

#[test]
fn contexts_that_would_wait_for_each_other_are_told() {
    let _deadline = deadline("contexts_that_would_wait_for_each_other_are_told");
    let (one, other) = (
        QContext::new("ring-a", true).unwrap(),
        QContext::new("ring-b", true).unwrap(),
    );
    let (inner, outer) = (other.clone(), one.clone());
    let answer = one
        .invoke_sync(move || {
            inner.invoke_sync(move || outer.invoke_sync(|| ()).map_err(|error| error.kind()))
        })
        .unwrap();
    assert_eq!(answer.unwrap(), Err(ErrorKind::WouldDeadlock));
    assert_eq!(
        one.invoke_sync(|| 1).unwrap() + other.invoke_sync(|| 2).unwrap(),
        3
    );
}

#[test]
fn work_that_panics_does_not_end_the_context() {
    let context = QContext::new("panics", true).unwrap();
    assert!(
        context
            .invoke_sync(|| panic!("expected by the test"))
            .is_err()
    );
    assert_eq!(context.invoke_sync(|| 4).unwrap(), 4);
}

#[test]
fn foreign_sources_of_every_kind_run_on_a_threaded_context() {
    let _deadline = deadline("foreign_sources_of_every_kind_run_on_a_threaded_context");
    let context = QContext::new("foreign", true).unwrap();
    let home = home_of(&context);
    let (send, receive) = channel();
    let tick = send.clone();
    let timeout = glib::timeout_source_new(
        Duration::from_millis(2),
        None,
        glib::Priority::DEFAULT,
        move || {
            tick.send(("timeout", std::thread::current().id())).unwrap();
            glib::ControlFlow::Break
        },
    );
    context.attach_source(&timeout, Some("timeout")).unwrap();
    assert_eq!(receive.recv().unwrap(), ("timeout", home));
    // Not through the context, as a C library does it.
    let behind = send.clone();
    context.main_context().invoke(move || {
        behind
            .send(("invoke", std::thread::current().id()))
            .unwrap();
    });
    assert_eq!(receive.recv().unwrap(), ("invoke", home));
    let idle = glib::idle_source_new(None, glib::Priority::LOW, move || {
        send.send(("idle", std::thread::current().id())).unwrap();
        glib::ControlFlow::Break
    });
    idle.attach(Some(&context.main_context()));
    assert_eq!(receive.recv().unwrap(), ("idle", home));
}

/// A handler was removed before the attach, and its destructor, which uses the context, is still pending: it must not run
/// under a lock of the context.
#[test]
fn attach_runs_no_destructor_under_its_lock() {
    struct Looks(QContext, Sender<ThreadId>);
    impl Drop for Looks {
        fn drop(&mut self) {
            assert!(self.0.find_source("nobody").is_none());
            self.1.send(std::thread::current().id()).unwrap();
        }
    }
    let _deadline = deadline("attach_runs_no_destructor_under_its_lock");
    let context = QContext::new("attach-lock", true).unwrap();
    let home = home_of(&context);
    let (aio, notifier) = (AioContext::new().unwrap(), EventNotifier::new().unwrap());
    let (looked, look) = channel();
    let looks = Looks(context.clone(), looked);
    let handler = FdHandler::new().on_read(move || {
        let _ = &looks;
    });
    aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
    aio.remove_fd_handler(notifier.as_raw_fd());
    context.attach(&aio, None).unwrap();
    assert_eq!(look.recv().unwrap(), home, "its home by now");
}

/// Hazards 1, 3 and 9 of docs/predecessor-hazards.md, on the context's own table: the caller holds the lock that its callbacks take.
#[test]
fn registering_from_eight_threads_with_the_lock_held_that_the_callbacks_take() {
    let _deadline =
        deadline("registering_from_eight_threads_with_the_lock_held_that_the_callbacks_take");
    let context = QContext::new("abba", true).unwrap();
    let big_lock = Arc::new(Mutex::new(()));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let notifier = Arc::new(EventNotifier::new().unwrap());
                    let held = big_lock.lock().unwrap();
                    let (lock, taken) = (Arc::clone(&big_lock), Arc::clone(&notifier));
                    let handler = FdHandler::new().on_read(move || {
                        drop(lock.lock().unwrap());
                        taken.take();
                    });
                    context
                        .set_fd_handler(notifier.as_raw_fd(), handler)
                        .unwrap();
                    notifier.signal();
                    let lock = Arc::clone(&big_lock);
                    context.invoke(move || drop(lock.lock().unwrap())).unwrap();
                    drop(held);
                    std::thread::yield_now();
                    let held = big_lock.lock().unwrap();
                    assert!(context.remove_fd_handler(notifier.as_raw_fd()));
                    drop(held);
                }
            });
        }
    });
    context.invoke_sync(|| ()).unwrap();
}

/// Two threads schedule, arm and signal while a third moves the AioContext between two running contexts.
#[test]
fn busy_aio_context_moves_between_running_contexts() {
    let _deadline = deadline("busy_aio_context_moves_between_running_contexts");
    let contexts = [
        QContext::new("move-a", true).unwrap(),
        QContext::new("move-b", true).unwrap(),
    ];
    let (aio, over) = (AioContext::new().unwrap(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                put_under_load(&aio, 500);
                over.fetch_add(1, Ordering::SeqCst);
            });
        }
        let mut moves = 0;
        while over.load(Ordering::SeqCst) < 2 {
            let context = &contexts[moves % 2];
            context.attach(&aio, None).unwrap();
            context.detach_sync(&aio).unwrap();
            moves += 1;
        }
        assert!(moves > 0);
        contexts[0].attach(&aio, None).unwrap();
    });
}
