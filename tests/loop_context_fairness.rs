//! GSources that are not ours share a context with handlers and bottom halves: how many turns each waits for the others.
//!
//! The bound: while the loop's own side has something to do at every turn, a foreign source that is ready is dispatched in
//! every 16th turn at the latest; while a foreign source is always ready, the loop's own side runs between any two of its
//! dispatches.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a test fails by panicking

use qcontext::{AioContext, Bh, EventNotifier, FdHandler, QContext, Wait};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// Turns between two looks at GLib.
const BOUND: usize = 16;

/// Measures how often one thing happens between two times of another.
#[derive(Default)]
struct Gaps {
    now: AtomicUsize,
    most: AtomicUsize,
    times: AtomicUsize,
}

impl Gaps {
    /// The one that is not waited for.
    fn step(&self) {
        self.now.fetch_add(1, Ordering::SeqCst);
    }

    /// The one that waits.
    fn turn(&self) {
        let gap = self.now.swap(0, Ordering::SeqCst);
        self.most.fetch_max(gap, Ordering::SeqCst);
        self.times.fetch_add(1, Ordering::SeqCst);
    }

    fn times(&self) -> usize {
        self.times.load(Ordering::SeqCst)
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

/// A source that is always ready.
fn always(act: impl Fn() + Send + 'static) -> glib::Source {
    glib::idle_source_new(None, glib::Priority::DEFAULT, move || {
        act();
        glib::ControlFlow::Continue
    })
}

/// A bottom half that schedules itself again each time.
fn restless(aio: &AioContext, act: impl Fn() + Send + 'static) -> Arc<OnceLock<Bh>> {
    let slot = Arc::new(OnceLock::<Bh>::new());
    let own = Arc::downgrade(&slot);
    let bh = aio.bh("restless", move || {
        act();
        if let Some(bh) = own.upgrade().as_ref().and_then(|this| this.get()) {
            bh.schedule();
        }
    });
    bh.schedule();
    assert!(slot.set(bh).is_ok());
    slot
}

#[test]
fn foreign_source_waits_for_sixteen_turns_of_bottom_halves_at_most() {
    let context = QContext::anonymous(false).unwrap();
    let gaps = Arc::new(Gaps::default());
    let (ours, theirs) = (Arc::clone(&gaps), Arc::clone(&gaps));
    let _bh = restless(&context.aio().unwrap(), move || ours.step());
    context
        .attach_source(&always(move || theirs.turn()), None)
        .unwrap();
    while gaps.times() < 1_000 {
        context.iterate(Wait::Block).unwrap();
    }
    assert!((1..=BOUND).contains(&gaps.most()), "{} turns", gaps.most());
}

#[test]
fn foreign_source_waits_for_sixteen_turns_of_handlers_at_most() {
    const HANDLERS: usize = 50;
    let context = QContext::anonymous(false).unwrap();
    let gaps = Arc::new(Gaps::default());
    let events: Vec<_> = (0..HANDLERS)
        .map(|_| EventNotifier::new().unwrap())
        .collect();
    for event in &events {
        let ours = Arc::clone(&gaps);
        let handler = FdHandler::new().on_read(move || ours.step());
        context.set_fd_handler(event.as_raw_fd(), handler).unwrap();
        event.signal();
    }
    let theirs = Arc::clone(&gaps);
    context
        .attach_source(&always(move || theirs.turn()), None)
        .unwrap();
    while gaps.times() < 500 {
        context.iterate(Wait::Block).unwrap();
    }
    let most = gaps.most();
    assert!((1..=BOUND * HANDLERS).contains(&most), "{most} calls");
}

#[test]
fn handler_and_bottom_half_run_between_any_two_dispatches_of_a_busy_foreign_source() {
    let context = QContext::anonymous(false).unwrap();
    let (to_handler, to_bh) = (Arc::new(Gaps::default()), Arc::new(Gaps::default()));
    let (steps, more_steps) = (Arc::clone(&to_handler), Arc::clone(&to_bh));
    let busy = always(move || {
        steps.step();
        more_steps.step();
    });
    context.attach_source(&busy, None).unwrap();
    let event = EventNotifier::new().unwrap();
    event.signal();
    let handled = Arc::clone(&to_handler);
    let handler = FdHandler::new().on_read(move || handled.turn());
    context.set_fd_handler(event.as_raw_fd(), handler).unwrap();
    let ran = Arc::clone(&to_bh);
    let _bh = restless(&context.aio().unwrap(), move || ran.turn());
    while to_handler.times() < 1_000 || to_bh.times() < 1_000 {
        context.iterate(Wait::Block).unwrap();
    }
    assert!(to_handler.most() <= 1, "{} dispatches", to_handler.most());
    assert!(to_bh.most() <= 1, "{} dispatches", to_bh.most());
}

/// Three hundred of each kind, as a program has them that uses GLib for everything.
#[test]
fn context_with_nine_hundred_foreign_sources_serves_them_and_its_own() {
    const EACH: usize = 300;
    let context = QContext::anonymous(true).unwrap();
    let seen = Arc::new(Mutex::new(vec![0; 3 * EACH]));
    let (tell, told) = std::sync::mpsc::channel();
    let mut sources = Vec::new();
    for index in 0..3 * EACH {
        let (seen, tell) = (Arc::clone(&seen), tell.clone());
        let once = move || {
            seen.lock().unwrap()[index] += 1;
            tell.send(()).unwrap();
            glib::ControlFlow::Break
        };
        let delay = Duration::from_millis(index as u64 % 7);
        let priority = [glib::Priority::HIGH, glib::Priority::LOW][index % 2];
        sources.push(match index % 3 {
            0 => glib::idle_source_new(None, priority, once),
            1 => glib::timeout_source_new(delay, None, priority, once),
            // This one stays, for ever idle.
            _ => glib::timeout_source_new_seconds(3_600, None, priority, once),
        });
    }
    for source in &sources {
        context.attach_source(source, None).unwrap();
    }
    (0..2 * EACH).for_each(|_| told.recv().unwrap());
    assert_eq!(context.invoke_sync(|| 7).unwrap(), 7);
    let counts = seen.lock().unwrap().clone();
    for (index, count) in counts.into_iter().enumerate() {
        assert_eq!(count, usize::from(index % 3 != 2), "source {index}");
    }
    context.stop().unwrap();
    assert!(sources.iter().all(glib::Source::is_destroyed));
}
