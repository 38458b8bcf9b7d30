//! The AioContext as a GSource: what GLib sees of it, step by step, nested, and at its end.
#![allow(clippy::unwrap_used, clippy::shadow_unrelated)] // a test fails by panicking, and names its steps alike
#![allow(unsafe_code)] // drives GLib's prepare, query, check and dispatch by hand

use glib::translate::ToGlibPtr;
use gsource::{AioContext, Bh, Clock, EventNotifier, FdHandler, Wait};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use support::deadline::deadline;
use support::loops::{Count, Driven, Journal, Loop, Slot, drop_probe, watched_notifier};

/// What one prepare, query, poll and check of a GMainContext said.
struct Turn {
    prepared: bool,
    timeout: i32,
    fds: usize,
    ready: bool,
}

/// One iteration of `context` in its four steps; dispatches when `check` says so.
fn turn(context: &glib::MainContext) -> Turn {
    let _owned = context.acquire().unwrap();
    let (mut priority, mut timeout) = (0, 0);
    let raw = context.to_glib_none().0;
    // SAFETY: the context is acquired by this thread.
    let prepared = unsafe { glib_sys::g_main_context_prepare(raw, &raw mut priority) } != 0;
    let empty = glib_sys::GPollFD {
        fd: -1,
        events: 0,
        revents: 0,
    };
    let mut fds = [empty; 8];
    let count =
        // SAFETY: as above; the array has room for 8.
        unsafe { glib_sys::g_main_context_query(raw, priority, &raw mut timeout, fds.as_mut_ptr(), 8) };
    let used = usize::try_from(count).unwrap();
    assert!(used <= fds.len());
    // SAFETY: GLib's poll takes the array as query has filled it.
    unsafe { glib_sys::g_poll(fds.as_mut_ptr(), u32::try_from(count).unwrap(), 0) };
    // SAFETY: as above.
    let ready =
        unsafe { glib_sys::g_main_context_check(raw, priority, fds.as_mut_ptr(), count) } != 0;
    if ready {
        // SAFETY: as above.
        unsafe { glib_sys::g_main_context_dispatch(raw) };
    }
    Turn {
        prepared,
        timeout,
        fds: used,
        ready,
    }
}

fn attached() -> (AioContext, glib::MainContext, glib::Source) {
    let (aio, context) = (AioContext::new().unwrap(), glib::MainContext::new());
    let source = aio.g_source().unwrap();
    source.attach(Some(&context));
    (aio, context, source)
}

#[test]
fn steps_by_hand_of_an_idle_source() {
    let (_aio, context, source) = attached();
    let turn = turn(&context);
    assert!(!turn.prepared && !turn.ready);
    assert_eq!(turn.timeout, -1, "nothing bounds the wait");
    // GLib's own wake-up fd and ours, however many handlers there are.
    assert_eq!(turn.fds, 2);
    source.destroy();
}

#[test]
fn steps_by_hand_show_one_fd_for_a_hundred_handlers() {
    let (aio, context, source) = attached();
    let watched: Vec<_> = (0..100).map(|_| watched_notifier(&aio)).collect();
    assert_eq!(turn(&context).fds, 2);
    watched[42].0.signal();
    let answer = turn(&context);
    assert!(!answer.prepared && answer.ready);
    assert_eq!(watched[42].1.get(), 1);
    assert!(!turn(&context).ready);
    source.destroy();
}

#[test]
fn steps_by_hand_of_a_scheduled_bottom_half_short_circuit_the_poll() {
    let (aio, context, source) = attached();
    let count = Count::new();
    let bh = aio.bh("test", count.hitter());
    bh.schedule();
    let answer = turn(&context);
    assert!(answer.prepared && answer.ready);
    assert_eq!((answer.timeout, count.get()), (0, 1));
    assert!(!turn(&context).ready);
    bh.schedule_idle();
    let answer = turn(&context);
    assert_eq!(
        (answer.prepared, answer.timeout, count.get()),
        (false, 10, 2)
    );
    source.destroy();
}

#[test]
fn steps_by_hand_of_a_due_timer() {
    let (aio, context, source) = attached();
    let count = Count::new();
    let timer = aio.timer(Clock::Realtime, count.hitter());
    timer.arm_at_ns(0);
    let answer = turn(&context);
    assert!(answer.prepared && answer.ready);
    assert_eq!(count.get(), 1);
    source.destroy();
}

/// GLib calls no check after prepare if a source of higher priority is ready.
#[test]
fn prepare_without_check_loses_nothing() {
    let (aio, context, source) = attached();
    let (notifier, count) = watched_notifier(&aio);
    let urgent = glib::idle_source_new(None, glib::Priority::HIGH, || glib::ControlFlow::Break);
    urgent.attach(Some(&context));
    notifier.signal();
    aio.notify();
    while count.get() == 0 {
        context.iteration(true);
    }
    while context.iteration(false) {}
    assert_eq!(count.get(), 1);
    source.destroy();
}

#[test]
fn bottom_half_deleted_in_its_callback_is_reaped_by_one_more_iteration() {
    let driven = Driven::new(Loop::Glib);
    let (slot, (probe, drops)) = (Slot::<Bh>::new(), drop_probe());
    let me = slot.clone();
    slot.put(driven.aio.bh("test", move || {
        probe.touch();
        drop(me.take());
    }));
    slot.with(Bh::schedule);
    assert!(driven.iterate(Wait::NoBlock));
    assert!(drops.threads().is_empty());
    assert!(driven.iterate(Wait::NoBlock), "as in QEMU");
    assert_eq!(drops.threads().len(), 1);
    assert!(!driven.iterate(Wait::NoBlock));
}

/// Hazard 24 of docs/predecessor-hazards.md: a dispatch that polls a second time.
#[test]
fn dispatch_does_not_poll_again() {
    let driven = Driven::new(Loop::Glib);
    let journal = Journal::new();
    let notifier = Arc::new(EventNotifier::new().unwrap());
    let (taken, signalled, noted) = (
        Arc::clone(&notifier),
        Arc::clone(&notifier),
        journal.noter("handler"),
    );
    let handler = FdHandler::new().on_read(move || {
        taken.take();
        noted();
    });
    driven
        .aio
        .set_fd_handler(notifier.as_raw_fd(), handler)
        .unwrap();
    let noted = journal.noter("bh");
    let bh = driven.aio.bh("test", move || {
        signalled.signal();
        noted();
    });
    bh.schedule();
    assert!(driven.iterate(Wait::NoBlock));
    assert_eq!(journal.text(), "bh");
    assert!(driven.iterate(Wait::NoBlock));
    assert_eq!(journal.text(), "bh handler");
}

#[test]
fn source_can_recurse() {
    let (aio, context, source) = attached();
    assert!(source.can_recurse());
    let (depth, deepest) = (Count::new(), Count::new());
    let slot = Slot::<Bh>::new();
    let (me, inner, reached) = (slot.clone(), context.clone(), deepest.clone());
    slot.put(aio.bh("test", move || {
        reached.hit();
        if depth.hit() < 5 {
            me.with(Bh::schedule);
            assert!(inner.iteration(true));
        }
    }));
    slot.with(Bh::schedule);
    assert!(context.iteration(true));
    assert_eq!(deepest.get(), 5);
    drop(slot.take());
    source.destroy();
}

#[test]
fn source_destroyed_in_dispatch() {
    let _deadline = deadline("source_destroyed_in_dispatch");
    let (aio, context, source) = attached();
    let (count, (probe, drops)) = (Count::new(), drop_probe());
    let (hit, mine) = (count.hitter(), Mutex::new(Some(source)));
    let handle = aio.clone();
    aio.schedule_oneshot("test", move || {
        probe.touch();
        hit();
        drop(handle);
        mine.lock().unwrap().take().unwrap().destroy();
    });
    drop(aio);
    assert!(context.iteration(true));
    assert!(!context.iteration(false));
    assert_eq!((count.get(), drops.threads().len()), (1, 1));
}

#[test]
fn source_destroyed_while_pending() {
    let (aio, context, source) = attached();
    let count = Count::new();
    let bh = aio.bh("test", count.hitter());
    bh.schedule();
    source.destroy();
    while context.iteration(false) {}
    assert_eq!(count.get(), 0);
    assert!(
        aio.poll(Wait::NoBlock).unwrap(),
        "it is the context's, not the source's"
    );
    assert_eq!(count.get(), 1);
}

/// Hazards 6, 7 and 8 of docs/predecessor-hazards.md: a source that frees itself twice, leaks a reference, or keeps its
/// handlers' user data.
#[test]
fn finalize_on_other_thread_after_its_main_context() {
    let (aio, context, source) = attached();
    let (notifier, count) = watched_notifier(&aio);
    let (probe, drops) = drop_probe();
    let other = EventNotifier::new().unwrap();
    aio.set_fd_handler(
        other.as_raw_fd(),
        FdHandler::new().on_read(move || probe.touch()),
    )
    .unwrap();
    notifier.signal();
    std::thread::spawn(move || {
        while context.iteration(false) {}
        drop(context);
    })
    .join()
    .unwrap();
    assert_eq!(count.get(), 1);
    assert!(source.is_destroyed());
    drop(aio);
    assert!(drops.threads().is_empty(), "the source keeps it");
    drop(source);
    assert_eq!(drops.threads(), [std::thread::current().id()]);
}

/// The caller of g_source_destroy holds a reference to the GMainContext: GLib locks it (2.74 also when it is being freed).
#[test]
fn context_and_source_destroyed_together() {
    let _deadline = deadline("context_and_source_destroyed_together");
    for _ in 0..200 {
        let (aio, context, source) = attached();
        let bh = aio.bh("test", || ());
        std::thread::scope(|scope| {
            let kept = context.clone();
            scope.spawn(move || drop(context));
            scope.spawn(move || {
                source.destroy();
                drop(source);
                drop(kept);
            });
            scope.spawn(move || bh.schedule());
            scope.spawn(move || aio.notify());
        });
    }
}

#[test]
fn source_attached_and_never_iterated() {
    let (aio, context, _source) = attached();
    aio.bh("test", || ()).schedule();
    aio.notify();
    drop((aio, context));
}

#[test]
fn source_moves_to_another_main_context() {
    let (aio, first, source) = attached();
    let (notifier, count) = watched_notifier(&aio);
    notifier.signal();
    assert!(first.iteration(true));
    source.destroy();
    let (second, source) = (glib::MainContext::new(), aio.g_source().unwrap());
    source.attach(Some(&second));
    notifier.signal();
    assert!(!first.iteration(false));
    assert!(second.iteration(true));
    assert_eq!(count.get(), 2);
    source.destroy();
}

#[test]
fn asking_for_a_source_changes_nothing_for_poll() {
    let aio = AioContext::new().unwrap();
    let source = aio.g_source().unwrap();
    let count = Count::new();
    let bh = aio.bh("test", count.hitter());
    bh.schedule();
    assert!(aio.poll(Wait::Block).unwrap());
    assert!(!aio.poll(Wait::NoBlock).unwrap());
    drop(source);
    bh.schedule();
    assert!(aio.poll(Wait::Block).unwrap());
    assert_eq!(count.get(), 2);
}

#[test]
fn foreign_sources_and_ours_share_a_main_context_without_starving() {
    let _deadline = deadline("foreign_sources_and_ours_share_a_main_context_without_starving");
    let (aio, context, source) = attached();
    let (ours, theirs) = (Count::new(), Count::new());
    let slot = Slot::<Bh>::new();
    let (me, hit) = (slot.clone(), ours.clone());
    slot.put(aio.bh("test", move || {
        hit.hit();
        me.with(Bh::schedule);
    }));
    slot.with(Bh::schedule);
    let hit = theirs.clone();
    let timeout = glib::timeout_source_new(
        std::time::Duration::from_millis(1),
        None,
        glib::Priority::DEFAULT,
        move || {
            hit.hit();
            glib::ControlFlow::Continue
        },
    );
    timeout.attach(Some(&context));
    while theirs.get() < 5 {
        context.iteration(true);
    }
    assert!(ours.get() >= 5);
    drop(slot.take());
    source.destroy();
}

#[test]
fn null_default_context() {
    let _deadline = deadline("null_default_context");
    let aio = AioContext::new().unwrap();
    let source = aio.g_source().unwrap();
    source.attach(None);
    let count = Count::new();
    aio.schedule_oneshot("test", count.hitter());
    let default = glib::MainContext::default();
    while count.get() == 0 {
        default.iteration(true);
    }
    source.destroy();
}
