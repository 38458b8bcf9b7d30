//! A context that a test iterates by itself.
#![forbid(unsafe_code)]

use std::sync::{Arc, Weak};

use gsource::{AioContext, Poller, Wait};

use super::Count;
use crate::deadline::deadline;
use crate::skip::skip_case;

/// Who drives the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loop {
    /// `AioContext::poll`.
    Own,
    /// A GMainContext that the context's source is attached to.
    Glib,
}

/// A context that waits with `poller`, or why the test cannot run here.
pub fn context(poller: Poller, name: &str) -> Option<AioContext> {
    AioContext::with_poller(poller)
        .inspect_err(|error| skip_case(name, error))
        .ok()
}

/// An AioContext and the loop that drives it, for a test that iterates by itself.
pub struct Driven {
    pub aio: AioContext,
    pub poller: Poller,
    glib: Option<(glib::MainContext, glib::Source)>,
}

impl Driven {
    pub fn new(kind: Loop) -> Arc<Driven> {
        Driven::on(kind, Poller::Epoll, AioContext::new().unwrap())
    }

    fn on(kind: Loop, poller: Poller, aio: AioContext) -> Arc<Driven> {
        let glib = (kind == Loop::Glib).then(|| {
            let (context, source) = (glib::MainContext::new(), aio.g_source().unwrap());
            source.attach(Some(&context));
            (context, source)
        });
        Arc::new(Driven { aio, poller, glib })
    }

    pub fn is_glib(&self) -> bool {
        self.glib.is_some()
    }

    /// One iteration: `aio_poll`, or `g_main_context_iteration`.
    pub fn iterate(&self, wait: Wait) -> bool {
        match &self.glib {
            None => self.aio.poll(wait).unwrap(),
            Some((context, _)) => context.iteration(wait == Wait::Block),
        }
    }

    /// Iterates without blocking until nothing is left to do.
    pub fn settle(&self) {
        while self.iterate(Wait::NoBlock) {}
    }

    /// Iterates, blocking, until `done`; the number of iterations that took.
    pub fn until(&self, mut done: impl FnMut() -> bool) -> usize {
        let mut iterations = 0;
        while !done() {
            self.iterate(Wait::Block);
            iterations += 1;
        }
        iterations
    }

    /// Iterates, blocking, for `milliseconds`; how many iterations that took beyond the one that ends it. Counts wake-ups:
    /// a loop with nothing to do answers 0, a spinning one thousands.
    pub fn wakeups_in(&self, milliseconds: i64) -> usize {
        let over = Count::new();
        let timer = self.aio.timer(gsource::Clock::Realtime, over.hitter());
        timer.arm_in_ns(milliseconds * 1_000_000);
        self.introduce();
        // On a busy machine the time may have been over before.
        self.until(|| over.get() > 0).saturating_sub(1)
    }

    /// Lets GLib have the wake-up that it gives itself when it is shown another fd, the timer's among them.
    pub fn introduce(&self) {
        if self.poller == Poller::Poll && self.is_glib() {
            self.iterate(Wait::NoBlock);
        }
    }

    /// What a callback captures to iterate again: it must not keep the context alive.
    pub fn nested(self: &Arc<Self>) -> impl Fn(Wait) -> bool + Send + Sync + 'static {
        let driven: Weak<Driven> = Arc::downgrade(self);
        move |wait| driven.upgrade().unwrap().iterate(wait)
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        if let Some((_, source)) = &self.glib {
            source.destroy();
        }
    }
}

/// Runs one test body under one loop with one poller, with a deadline.
pub fn run(kind: Loop, poller: Poller, name: &str, case: impl FnOnce(&Arc<Driven>)) {
    let name = format!("{name} ({kind:?}, {poller})");
    let _deadline = deadline(&name);
    if let Some(aio) = context(poller, &name) {
        case(&Driven::on(kind, poller, aio));
    }
}
