//! Unthreaded contexts, driven by `QContext::iterate` or by GLib.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use qcontext::{AioContext, PollParams, QContext, Wait};

use super::ours::Ours;
use crate::Result;
use crate::event_loop::{Kind, Loop};

/// A context with nothing but an AioContext.
pub(crate) struct Plain {
    aio: AioContext,
    context: QContext,
}

impl Loop for Plain {
    const NAME: &'static str = "qcontext";
    const KIND: Kind = Kind::Ours;

    fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let id = format!("bench{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let context = QContext::new(&id, false)?;
        // The workloads are those of loops that sleep.
        context.set_poll_params(PollParams::default())?;
        let aio = AioContext::new()?;
        context.attach(&aio, None)?;
        Ok(Plain { aio, context })
    }

    fn iterate(&mut self, wait: Wait) {
        let _ = self.context.iterate(wait);
    }
}

impl Ours for Plain {
    fn aio(&self) -> &AioContext {
        &self.aio
    }
}

/// A context with a GSource that is not ours, so GLib is asked at each iteration.
pub(crate) struct WithForeign(Plain);

impl Loop for WithForeign {
    const NAME: &'static str = "qcontext+foreign";
    const KIND: Kind = Kind::Ours;

    fn new() -> Result<Self> {
        let plain = Plain::new()?;
        let hour = Duration::from_secs(3600);
        let source = glib::timeout_source_new(hour, None, glib::Priority::DEFAULT, || {
            glib::ControlFlow::Continue
        });
        plain.context.attach_source(&source, None)?;
        Ok(WithForeign(plain))
    }

    fn iterate(&mut self, wait: Wait) {
        self.0.iterate(wait);
    }
}

impl Ours for WithForeign {
    fn aio(&self) -> &AioContext {
        &self.0.aio
    }
}

/// A context whose GMainContext GLib iterates.
pub(crate) struct ByGlib(Plain, glib::MainContext);

impl Loop for ByGlib {
    const NAME: &'static str = "qcontext by GLib";
    const KIND: Kind = Kind::Ours;

    fn new() -> Result<Self> {
        let plain = Plain::new()?;
        let main = plain.context.main_context();
        Ok(ByGlib(plain, main))
    }

    fn iterate(&mut self, wait: Wait) {
        self.1.iteration(wait == Wait::Block);
    }
}

impl Ours for ByGlib {
    fn aio(&self) -> &AioContext {
        &self.0.aio
    }
}
