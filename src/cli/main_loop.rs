//! Iterating `qcontext-main` until a condition holds.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use qcontext::{QContext, Wait};

use super::failure::Failure;

/// An event that happens once, on any thread, and wakes the main loop.
#[derive(Clone, Debug, Default)]
pub(super) struct Flag(Arc<AtomicBool>);

impl Flag {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Release);
        glib::MainContext::default().wakeup();
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Iterates until `done` is true.
pub(super) fn iterate_until(done: impl Fn() -> bool) -> Result<(), Failure> {
    while !done() {
        QContext::main()
            .iterate(Wait::Block)
            .map_err(|error| Failure::at("qcontext-main", &error))?;
    }
    Ok(())
}

/// Iterates until `done` is true, for `limit` at most.
pub(super) fn iterate_for(limit: Duration, done: impl Fn() -> bool) -> Result<(), Failure> {
    let late = Flag::default();
    let too_late = late.clone();
    let source = glib::timeout_source_new(
        limit,
        Some("qctx-limit"),
        glib::Priority::DEFAULT,
        move || {
            too_late.set();
            glib::ControlFlow::Break
        },
    );
    source.attach(Some(&glib::MainContext::default()));
    let outcome = iterate_until(|| done() || late.is_set());
    source.destroy();
    outcome
}
