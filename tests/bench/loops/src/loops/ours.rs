//! Our event sources: under the reactor of a home, and as a GSource of a plain GMainContext.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::Arc;

use gsource::{Driving, Reactor};
use qcontext::{AioContext, Bh, Clock, FdHandler, Timer, Wait};

use crate::Result;
use crate::event_loop::{Action, Deferred, Fds, Kind, Loop, Posts, Timers, Wakes, hit, receive};

/// A loop of ours, however it is driven.
pub(crate) trait Ours: Loop {
    fn aio(&self) -> &AioContext;
}

/// `Reactor::iterate` by a thread that owns the reactor for good, as the thread of a context does.
pub(crate) struct Own {
    aio: AioContext,
    pub(crate) reactor: &'static Reactor,
    _driving: Driving<'static>,
}

impl Loop for Own {
    const NAME: &'static str = "reactor";
    const KIND: Kind = Kind::Ours;

    fn new() -> Result<Self> {
        let reactor = Reactor::new()?;
        let aio = AioContext::new()?;
        aio.attach_to(&reactor)?;
        let reactor: &Arc<Reactor> = Box::leak(Box::new(reactor));
        Ok(Own {
            aio,
            reactor,
            _driving: reactor.drive()?,
        })
    }

    fn iterate(&mut self, wait: Wait) {
        let _ = self.reactor.iterate(wait);
    }
}

impl Ours for Own {
    fn aio(&self) -> &AioContext {
        &self.aio
    }
}

/// An AioContext as a GSource, through `g_main_context_iteration`.
pub(crate) struct InGlib {
    aio: AioContext,
    main: glib::MainContext,
    source: glib::Source,
}

impl Loop for InGlib {
    const NAME: &'static str = "g_source";
    const KIND: Kind = Kind::Ours;

    fn new() -> Result<Self> {
        let aio = AioContext::new()?;
        let main = glib::MainContext::new();
        let source = aio.g_source()?;
        source.attach(Some(&main));
        Ok(InGlib { aio, main, source })
    }

    fn iterate(&mut self, wait: Wait) {
        self.main.iteration(wait == Wait::Block);
    }
}

impl Drop for InGlib {
    fn drop(&mut self) {
        self.source.destroy();
    }
}

impl Ours for InGlib {
    fn aio(&self) -> &AioContext {
        &self.aio
    }
}

impl<L: Ours> Fds for L {
    const LAZY: bool = true;

    fn watch(&mut self, fd: RawFd, action: Action) -> Result<()> {
        let handler = FdHandler::new().on_read(move || action.perform(fd));
        Ok(self.aio().set_fd_handler(fd, handler)?)
    }

    fn unwatch(&mut self, fd: RawFd) {
        self.aio().remove_fd_handler(fd);
    }
}

impl<L: Ours> Deferred for L {
    type Bh = Bh;

    fn bh(&mut self) -> Bh {
        self.aio().bh("bench", hit)
    }

    fn schedule(&mut self, bh: &Bh) {
        bh.schedule();
    }
}

impl<L: Ours> Timers for L {
    type Timer = Timer;

    fn timer(&mut self) -> Timer {
        self.aio().timer(Clock::Realtime, hit)
    }

    fn arm(&mut self, timer: &mut Timer, deadline_ns: i64) {
        timer.arm_at_ns(deadline_ns);
    }
}

impl<L: Ours> Wakes for L {
    type Waker = Bh;

    fn waker(&mut self) -> Result<Bh> {
        Ok(self.aio().bh("wake", hit))
    }

    fn wake(waker: &Bh) {
        waker.schedule();
    }
}

impl<L: Ours> Posts for L {
    type Poster = AioContext;

    fn poster(&mut self) -> Result<AioContext> {
        Ok(self.aio().clone())
    }

    fn post(poster: &AioContext, number: u64) {
        poster.schedule_oneshot("post", move || receive(number));
    }
}
