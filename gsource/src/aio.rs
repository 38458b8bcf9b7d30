//! The AioContext: a device's set of event handlers, driven by one thread at a time.
//!
//! It owns fd handlers, bottom halves and timers; a [`Reactor`] waits for them. A fresh AioContext has a reactor to itself,
//! which [`AioContext::poll`] or the thread that iterates [`AioContext::g_source`] drives. Attached to a home's reactor it
//! is served there together with its neighbours.
//!
//! # Threads
//! Every method may be called from any thread with any lock held, except `poll` and `register_io`, which are the home's.
#![deny(unsafe_code)] // raw.rs says why

pub(crate) mod bh;
mod core;
pub(crate) mod file_call;
pub(crate) mod file_requests;
pub(crate) mod io_queue;
pub(crate) mod job;
pub(crate) mod leftovers;
pub(crate) mod notifier;
mod raw;
pub(crate) mod task;
pub(crate) mod timer;

use crate::poller::io_sink::IoSink;
use crate::poller::ring::Abilities;
use crate::poller::{Drivers, Poller};
use crate::reactor::fd_handler::PollSwitch;
use crate::reactor::fd_record::FdRecord;
use crate::reactor::handlers::IfPresent;
use crate::reactor::tenant::Tenant;
use crate::reactor::{Reactor, Wait};
use crate::source;
use crate::{Bh, Clock, Error, ErrorKind, FdHandler, PollParams, Result, Timer};
pub(crate) use core::Core;
use io_queue::IoQueue;
use std::fmt;
use std::os::fd::RawFd;
use std::sync::Arc;

/// A device's set of event handlers. Clones are the same context; the last one to go removes everything it holds.
///
/// ```
/// use gsource::{AioContext, EventNotifier, FdHandler, Wait};
/// use std::os::fd::AsRawFd;
/// use std::sync::Arc;
///
/// let aio = AioContext::new()?;
/// let notifier = Arc::new(EventNotifier::new()?);
/// let seen = Arc::clone(&notifier);
/// aio.set_fd_handler(notifier.as_raw_fd(), FdHandler::new().on_read(move || assert!(seen.take())))?;
/// notifier.signal();
/// assert!(aio.poll(Wait::Block)?);
/// assert!(!aio.poll(Wait::NoBlock)?);
/// aio.remove_fd_handler(notifier.as_raw_fd());
/// # Ok::<(), gsource::Error>(())
/// ```
#[derive(Clone)]
pub struct AioContext(Arc<Handle>);

/// Ends the context when the last clone goes. Jobs refer to the [`Core`], everything on the reactor to the [`Tenant`].
struct Handle {
    tenant: Arc<Tenant>,
    core: Arc<Core>,
    /// All its fd handlers are left aside.
    is_aside: bool,
}

impl AioContext {
    /// A context that is attached nowhere.
    ///
    /// # Errors
    /// None today; fds are taken only when the context is first polled or attached.
    pub fn new() -> Result<AioContext> {
        let private = Reactor::dormant(Poller::Epoll, Drivers::Any, Abilities::ALL);
        Ok(AioContext::on(private, false))
    }

    /// A context whose fd handlers are all [left aside](FdHandler::aside) by others of its home.
    pub(crate) fn aside() -> AioContext {
        let private = Reactor::dormant(Poller::Epoll, Drivers::Any, Abilities::ALL);
        AioContext::on(private, true)
    }

    /// A context that waits with `poller` while it is attached nowhere.
    ///
    /// # Errors
    /// The kernel's, when it gives no fds or does not have `poller`.
    pub fn with_poller(poller: Poller) -> Result<AioContext> {
        let private = Reactor::with_poller(poller, Drivers::Any)?;
        Ok(AioContext::on(private, false))
    }

    fn on(private: Arc<Reactor>, is_aside: bool) -> AioContext {
        let core = Core::new(private);
        let tenant = Arc::clone(&core.tenant);
        AioContext(Arc::new(Handle {
            tenant,
            core,
            is_aside,
        }))
    }

    /// Watches `fd` for `handler`, in place of this context's earlier handler of that fd. A handler that wants nothing
    /// removes it.
    ///
    /// # Errors
    /// The kernel's, when it cannot watch the fd; then nothing changed and the handler was not taken.
    pub fn set_fd_handler(&self, fd: RawFd, handler: FdHandler) -> Result<()> {
        if handler.is_empty() {
            self.remove_fd_handler(fd);
            return Ok(());
        }
        let record = self.record(fd, handler);
        self.tenant().set_handler(record, IfPresent::Replace)
    }

    /// As [`AioContext::set_fd_handler`], but never in place of another handler.
    ///
    /// # Errors
    /// `AlreadyExists` when this context watches the fd already, `InvalidArgument` for a handler that wants nothing, or the
    /// kernel's; then nothing changed and the handler was not taken.
    pub fn add_fd_handler(&self, fd: RawFd, handler: FdHandler) -> Result<()> {
        if handler.is_empty() {
            let message = format!("the handler of fd {fd} has neither a read nor a write callback");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let record = self.record(fd, handler);
        self.tenant().set_handler(record, IfPresent::Refuse)
    }

    fn record(&self, fd: RawFd, mut handler: FdHandler) -> Arc<FdRecord> {
        handler.aside |= self.0.is_aside;
        Arc::new(FdRecord::new(fd, handler, Arc::downgrade(self.tenant())))
    }

    /// Watches `fd` no more; false when it was not watched. On return the fd is out of the poll set and may be closed and
    /// its number reused; a callback that has begun on another thread may still be running.
    pub fn remove_fd_handler(&self, fd: RawFd) -> bool {
        self.tenant()
            .remove_handlers(|record| record.is_handler_of(fd))
    }

    /// As [`AioContext::remove_fd_handler`]; `done` runs after the last call of the handler has returned and its callbacks
    /// were dropped, on the thread that dropped them. Without a handler of `fd`, `done` is dropped uncalled.
    pub fn remove_fd_handler_then(&self, fd: RawFd, done: impl FnOnce() + Send + 'static) -> bool {
        let mut done: Option<Box<dyn FnOnce() + Send>> = Some(Box::new(done));
        self.tenant().remove_handlers(|record| {
            if !record.is_handler_of(fd) {
                return false;
            }
            if let Some(done) = done.take() {
                record.after_drop(done);
            }
            true
        })
    }

    /// Drops what was removed at once, if no other thread drives this context. Otherwise its home does so soon.
    #[doc(hidden)] // for the C ABI
    pub fn reap(&self) {
        if let Ok(reactor) = self.reactor() {
            reactor.reap_if_idle();
        }
    }

    /// A new bottom half. Its name is in the message that logs a panic.
    pub fn bh(&self, name: &'static str, callback: impl Fn() + Send + 'static) -> Bh {
        Bh::new(Arc::clone(self.tenant()), name, callback)
    }

    /// Runs `callback` once in the next iteration.
    pub fn schedule_oneshot(&self, name: &'static str, callback: impl FnOnce() + Send + 'static) {
        self.tenant().schedule_oneshot(name, callback);
    }

    /// A new timer, not armed.
    pub fn timer(&self, clock: Clock, callback: impl Fn() + Send + 'static) -> Timer {
        Timer::new(Arc::clone(self.tenant()), clock, Box::new(callback))
    }

    /// Makes the current or next blocking wait return. That alone is not progress. Async-signal-safe.
    pub fn notify(&self) {
        self.tenant().notify();
    }

    /// Forgets notifications that have come, so that they do not end the next wait. What they announced is found all the same.
    ///
    /// # Errors
    /// `WrongThread` while another thread drives the context.
    pub fn accept_notifications(&self) -> Result<()> {
        self.reactor()?.accept_notifications()
    }

    /// One iteration; true when it made progress: when a bottom half that is not idle, a handler or a timer ran. `Block`
    /// waits once, until something happens, for as long as it takes. Attached to a home, it serves all AioContexts of that home,
    /// but not handlers that are [left aside](FdHandler::aside), such as those of [`IoHandlers`](crate::IoHandlers).
    ///
    /// # Errors
    /// `WrongThread` while another thread drives the context; the kernel's, when it gives no fds for the wait.
    pub fn poll(&self, wait: Wait) -> Result<bool> {
        let reactor = self.reactor()?;
        if self.0.is_aside || Arc::ptr_eq(&reactor, &self.core().private) {
            return reactor.iterate(wait);
        }
        reactor.poll(wait)
    }

    /// Runs the bottom halves of this context and nothing else, without waiting; true when one that is not idle ran.
    ///
    /// # Errors
    /// `WrongThread` while another thread drives the context.
    pub fn poll_bhs(&self) -> Result<bool> {
        self.reactor()?.run_bhs_of(self.tenant())
    }

    /// How long a `poll` would block now, in nanoseconds; `None` when only an event would end it. Asked on the home thread.
    ///
    /// # Errors
    /// `WrongThread` while another thread drives the context.
    pub fn timeout_ns(&self) -> Result<Option<i64>> {
        self.reactor()?.bound_ns()
    }

    /// Replaces the polling switch of the handler of `fd`, from the next call on; false without a handler. See
    /// [`FdHandler::io_poll_switch`].
    pub fn set_io_poll_switch(&self, fd: RawFd, switch: impl Fn(bool) + Send + 'static) -> bool {
        self.tenant()
            .set_switch(fd, Some(Arc::new(PollSwitch(Box::new(switch)))))
    }

    /// Removes the polling switch of the handler of `fd`; false without a handler.
    pub fn remove_io_poll_switch(&self, fd: RawFd) -> bool {
        self.tenant().set_switch(fd, None)
    }

    /// Changes how long a `poll` of this unattached context busy-polls before it sleeps; at first it does not.
    ///
    /// # Errors
    /// `InvalidArgument` when a parameter is negative.
    pub fn set_poll_params(&self, params: PollParams) -> Result<()> {
        self.core().private.set_poll_params(params)
    }

    /// True on the thread that drives this context, while it does.
    pub fn is_home(&self) -> bool {
        self.reactor().is_ok_and(|reactor| reactor.is_driven_here())
    }

    /// A source that drives this context from a GMainContext of the caller's. To GLib it shows one fd.
    ///
    /// Sources of one context may be attached to several GMainContexts. Each event is served once, by whichever thread comes first, so
    /// the home changes between them; a context with tasks stays on their thread.
    ///
    /// # Errors
    /// The kernel's, when it gives no fds for the wait.
    pub fn g_source(&self) -> Result<glib::Source> {
        source::new(&self.core().private, Some(Box::new(self.clone())))
    }

    /// Lets this context send requests to the io_uring of its home; completions come to `sink`.
    ///
    /// # Errors
    /// `Unsupported` where the kernel has no io_uring.
    pub fn register_io(&self, sink: Arc<dyn IoSink>) -> Result<IoQueue> {
        IoQueue::new(self.clone(), sink)
    }

    /// The reactor this context is on.
    pub(crate) fn reactor(&self) -> Result<Arc<Reactor>> {
        self.tenant().reactor()
    }

    /// Puts this context on `reactor`. The thread that drives that serves it from now on.
    ///
    /// # Errors
    /// `Busy` while another thread drives the context where it is, while it has tasks or io_uring requests in flight, inside one
    /// of its own callbacks, or when it is attached to another home; `Os` when the new poll set does not take its fds (then it
    /// stays where it was).
    pub fn attach_to(&self, reactor: &Arc<Reactor>) -> Result<()> {
        let current = self.reactor()?;
        if Arc::ptr_eq(&current, reactor) {
            return Ok(());
        }
        if !Arc::ptr_eq(&current, &self.core().private) {
            return Err(Error::new(
                ErrorKind::Busy,
                "the AioContext is attached to another context already",
            ));
        }
        self.core().move_to(&current, reactor)
    }

    /// Takes this context off its home, on the home thread or while no thread drives it. It can then be polled by itself or
    /// attached elsewhere; nothing that is pending is lost.
    ///
    /// # Errors
    /// `Busy` while it has tasks, see [`AioContext::spawn_local`], while requests of an [`IoQueue`] or an
    /// [`AsyncFile`](crate::AsyncFile) are in the home's io_uring, and inside one of its own callbacks; `WrongThread` while
    /// another thread drives it.
    pub fn detach(&self) -> Result<()> {
        let current = self.reactor()?;
        let private = Arc::clone(&self.core().private);
        if Arc::ptr_eq(&current, &private) {
            Ok(())
        } else {
            self.core().move_to(&current, &private)
        }
    }

    /// True when there is another handle.
    #[doc(hidden)] // for the contexts of qcontext
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Drops, uncalled, what [`AioContext::schedule_oneshot`] has queued. The caller drives this context, and no callback of it
    /// runs.
    ///
    /// # Errors
    /// `WrongThread` while another thread drives the context.
    #[doc(hidden)] // for the contexts of qcontext
    pub fn drop_oneshots(&self) -> Result<()> {
        self.reactor()?.drive()?.drop_oneshots(self.tenant());
        Ok(())
    }

    /// True when both are the same context.
    pub fn is_same(&self, other: &AioContext) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn tenant(&self) -> &Arc<Tenant> {
        &self.0.tenant
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0.core
    }
}

impl fmt::Debug for AioContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AioContext")
            .field("tenant", &Arc::as_ptr(self.tenant()))
            .field("handlers", &self.tenant().handlers())
            .finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.tear_down();
    }
}
