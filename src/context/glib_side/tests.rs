//! When GLib is asked, and when it is not.
#![forbid(unsafe_code)]

use crate::{AioContext, QContext, Wait};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

fn asks_glib(context: &QContext) -> bool {
    context.core().foreign.load(Ordering::Acquire)
}

#[test]
fn a_context_of_our_own_sources_only_does_not_ask_glib() {
    let context = QContext::anonymous(false).unwrap();
    let aio = AioContext::new().unwrap();
    context.attach(&aio, None).unwrap();
    for _ in 0..3 {
        let bh = aio.bh("test", || ());
        bh.schedule();
        assert!(context.iterate(Wait::Block).unwrap());
        assert!(!context.iterate(Wait::NoBlock).unwrap());
    }
    assert!(!asks_glib(&context));
}

/// The source is attached with GLib's function, not with ours.
#[test]
fn a_foreign_source_is_noticed_by_the_wake_up_it_causes() {
    let context = QContext::anonymous(false).unwrap();
    let ran = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&ran);
    let source = glib::idle_source_new(None, glib::Priority::DEFAULT, move || {
        count.fetch_add(1, Ordering::Relaxed);
        glib::ControlFlow::Break
    });
    source.attach(Some(&context.main_context()));
    while ran.load(Ordering::Relaxed) == 0 {
        context.iterate(Wait::Block).unwrap();
    }
    assert!(asks_glib(&context));
}

/// Our own work goes on all the time; a foreign source that is always ready has its turn at each 16th iteration at least.
#[test]
fn a_foreign_source_waits_for_fifteen_busy_turns_at_most() {
    let context = QContext::anonymous(false).unwrap();
    let aio = AioContext::new().unwrap();
    context.attach(&aio, None).unwrap();
    let ran = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&ran);
    let source = glib::idle_source_new(None, glib::Priority::DEFAULT, move || {
        count.fetch_add(1, Ordering::Relaxed);
        glib::ControlFlow::Continue
    });
    context.attach_source(&source, None).unwrap();
    let bh = aio.bh("busy", || ());
    let mut waited = 0;
    for _ in 0..1000 {
        let before = ran.load(Ordering::Relaxed);
        bh.schedule();
        assert!(context.iterate(Wait::Block).unwrap());
        waited = if ran.load(Ordering::Relaxed) == before {
            waited + 1
        } else {
            0
        };
        assert!(waited <= super::BUSY_TURNS);
    }
    source.destroy();
}
