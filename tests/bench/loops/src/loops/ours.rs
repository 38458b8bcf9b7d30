//! Our event sources: under the reactor of a home, and as a GSource of a plain GMainContext.
#![forbid(unsafe_code)]

use std::marker::PhantomData;
use std::os::fd::RawFd;
use std::sync::Arc;

use gsource::{Drivers, Driving, Poller, Reactor};
use qcontext::{AioContext, Bh, Clock, FdHandler, Timer, Wait};

use crate::Result;
use crate::event_loop::{Action, Deferred, Fds, Kind, Loop, Posts, Timers, Wakes, hit, receive};

/// A loop of ours, however it is driven.
pub(crate) trait Ours: Loop {
    fn aio(&self) -> &AioContext;
}

/// How a reactor waits, as a type.
pub(crate) trait Waits: 'static {
    const POLLER: Poller;
    const NAME: &'static str;
}

pub(crate) struct ByEpoll;

impl Waits for ByEpoll {
    const POLLER: Poller = Poller::Epoll;
    const NAME: &'static str = "reactor";
}

pub(crate) struct ByRing;

impl Waits for ByRing {
    const POLLER: Poller = Poller::IoUring;
    const NAME: &'static str = "reactor io_uring";
}

pub(crate) struct ByPoll;

impl Waits for ByPoll {
    const POLLER: Poller = Poller::Poll;
    const NAME: &'static str = "reactor poll";
}

/// Our loop where the kernel has it.
pub(crate) type OwnRing = Own<ByRing>;
/// Our loop on any kernel.
pub(crate) type OwnPoll = Own<ByPoll>;

/// `Reactor::iterate` by a thread that owns the reactor for good, as the thread of a context does.
pub(crate) struct Own<W: Waits = ByEpoll> {
    aio: AioContext,
    pub(crate) reactor: &'static Reactor,
    _driving: Driving<'static>,
    _waits: PhantomData<W>,
}

impl<W: Waits> Loop for Own<W> {
    const NAME: &'static str = W::NAME;
    const KIND: Kind = Kind::Ours;

    fn new() -> Result<Self> {
        let reactor = Reactor::with_poller(W::POLLER, Drivers::One)?;
        let aio = AioContext::new()?;
        aio.attach_to(&reactor)?;
        let reactor: &Arc<Reactor> = Box::leak(Box::new(reactor));
        Ok(Own {
            aio,
            reactor,
            _driving: reactor.drive()?,
            _waits: PhantomData,
        })
    }

    fn iterate(&mut self, wait: Wait) {
        let _ = self.reactor.iterate(wait);
    }
}

impl<W: Waits> Ours for Own<W> {
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
