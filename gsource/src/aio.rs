//! The AioContext: a device's set of event handlers, driven by one thread at a time.
//!
//! It owns fd handlers, bottom halves and timers; a [`Reactor`] waits for them. A fresh AioContext has a reactor to itself,
//! which [`AioContext::poll`] or the thread that iterates [`AioContext::g_source`] drives. Attached to a home's reactor it
//! is served there together with its neighbours.
//!
//! # Threads
//! Every method may be called from any thread with any lock held, except `poll` and `register_io`, which are the home's.
//!
//! # Invariants
//! 1. The pointer to the current [`Attachment`] is replaced only by the thread that drives the old reactor, or while nobody
//!    drives it. Replaced attachments stay allocated while any thread is between loading the pointer and being done with it
//!    (`visitors`).
//! 2. A bottom half is published before the attachment is loaded to kick it, and a move kicks the new reactor after the
//!    pointer was replaced; so one of the two kicks reaches the reactor that will run it.
#![allow(unsafe_code)] // the attachment pointer is read without a lock, so that a signal handler can

pub(crate) mod bh;
pub(crate) mod clock;
pub(crate) mod handler;
pub(crate) mod notifier;
pub(crate) mod notify;
pub(crate) mod pool;
mod raw;
pub(crate) mod task;
pub(crate) mod timer;

use crate::home_cell::HomeCell;
use crate::list::{List, Taken};
use crate::poller::uring::{IoQueue, IoSink};
use crate::reactor::{Attachment, Driving, Reactor, Retired, Urgency, Wait};
use crate::source;
use crate::unwind;
use crate::{Bh, Clock, Error, ErrorKind, FdHandler, PollParams, Result, Timer};
use bh::BhNode;
use handler::FdRecord;
use pool::job::Jobs;
use std::fmt;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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

/// Ends the context when the last clone goes. Everything inside holds the [`Core`] instead.
struct Handle {
    core: Arc<Core>,
}

/// What an AioContext is made of.
pub(crate) struct Core {
    /// Scheduled bottom halves; closed when the context is torn down.
    pub(crate) bhs: List<BhNode>,
    /// Bottom halves that the home has taken and not run yet.
    pub(crate) slice: HomeCell<Taken<BhNode>>,
    /// How many walks over the slice have not ended; more than one with nested iterations.
    pub(crate) slices: HomeCell<u32>,
    /// The current attachment; null once torn down. See invariant 1.
    attachment: AtomicPtr<Attachment>,
    visitors: AtomicUsize,
    /// The owned attachments: the current one last.
    attachments: Mutex<Vec<Arc<Attachment>>>,
    handlers: Mutex<Vec<Arc<FdRecord>>>,
    pub(crate) jobs: Jobs,
    /// How many tasks bind this context to their thread.
    pub(crate) tasks: AtomicUsize,
    /// The reactor to itself, used while not attached elsewhere.
    private: Arc<Reactor>,
}

impl AioContext {
    /// A context that is attached nowhere.
    ///
    /// # Errors
    /// None today; fds are taken only when the context is first polled or attached.
    pub fn new() -> Result<AioContext> {
        let private = Reactor::dormant();
        let core = Arc::new(Core {
            bhs: List::new(),
            slice: HomeCell::new(Taken::empty()),
            slices: HomeCell::new(0),
            attachment: AtomicPtr::new(ptr::null_mut()),
            visitors: AtomicUsize::new(0),
            attachments: Mutex::new(Vec::new()),
            handlers: Mutex::new(Vec::new()),
            jobs: Jobs::default(),
            tasks: AtomicUsize::new(0),
            private: Arc::clone(&private),
        });
        core.bind(Attachment::new(&core, &private));
        Ok(AioContext(Arc::new(Handle { core })))
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
        self.core().set_handler(self.record(fd, handler), true)
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
        self.core().set_handler(self.record(fd, handler), false)
    }

    fn record(&self, fd: RawFd, handler: FdHandler) -> Arc<FdRecord> {
        Arc::new(FdRecord::new(fd, handler, Arc::downgrade(self.core())))
    }

    /// Watches `fd` no more; false when it was not watched. On return the fd is out of the poll set and may be closed and
    /// its number reused; a callback that has begun on another thread may still be running.
    pub fn remove_fd_handler(&self, fd: RawFd) -> bool {
        self.core().remove_fd(fd)
    }

    /// As [`AioContext::remove_fd_handler`]; `done` runs after the last call of the handler has returned and its callbacks
    /// were dropped, on the thread that dropped them. Without a handler of `fd`, `done` is dropped uncalled.
    pub fn remove_fd_handler_then(&self, fd: RawFd, done: impl FnOnce() + Send + 'static) -> bool {
        let mut done: Option<Box<dyn FnOnce() + Send>> = Some(Box::new(done));
        self.core().remove_handlers(|record| {
            if !record.is_handler_of(fd) {
                return false;
            }
            if let Some(done) = done.take() {
                record.after_drop(done);
            }
            true
        })
    }

    /// Drops what was removed at once, if nobody or the calling thread drives this context; else its home does so soon.
    pub fn reap(&self) {
        if let Ok(reactor) = self.reactor() {
            reactor.reap_if_idle();
        }
    }

    /// A new bottom half. The name is for people who look for what holds the loop.
    pub fn bh(&self, name: &'static str, callback: impl Fn() + Send + 'static) -> Bh {
        Bh::new(Arc::clone(self.core()), name, Box::new(callback))
    }

    /// Runs `callback` once in the next iteration.
    pub fn schedule_oneshot(&self, name: &'static str, callback: impl FnOnce() + Send + 'static) {
        bh::schedule_oneshot(self.core(), name, Box::new(callback));
    }

    /// A new timer, not armed.
    pub fn timer(&self, clock: Clock, callback: impl Fn() + Send + 'static) -> Timer {
        Timer::new(Arc::clone(self.core()), clock, Box::new(callback))
    }

    /// Makes the current or next blocking wait return. That alone is not progress. Async-signal-safe.
    pub fn notify(&self) {
        self.core().visit(|attachment| attachment.reactor.notify());
    }

    /// One iteration; true when it made progress: when a bottom half that is not idle, a handler or a timer ran. `Block`
    /// waits once, until something happens, for as long as it takes. Attached to a home, it serves everything of that home.
    ///
    /// # Errors
    /// `WrongThread` while another thread drives the context; the kernel's, when it gives no fds for the wait.
    pub fn poll(&self, wait: Wait) -> Result<bool> {
        self.reactor()?.iterate(wait)
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
    /// # Errors
    /// The kernel's, when it gives no fds for the wait.
    pub fn g_source(&self) -> Result<glib::Source> {
        source::new(&self.core().private, Some(self.clone()))
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
        let mut reactor = None;
        self.core()
            .visit(|attachment| reactor = Some(Arc::clone(&attachment.reactor)));
        reactor.ok_or_else(|| Error::new(ErrorKind::Closed, "the AioContext has been torn down"))
    }

    /// Puts this context on `reactor`, to be served by whoever drives that.
    ///
    /// # Errors
    /// `Busy` while another thread drives the context where it is, while it has tasks, or when it is attached to another home; `Os` when the new
    /// poll set does not take its fds (then it stays where it was).
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

    /// Takes this context off its home, on the home thread or while nobody drives it. It can then be polled by itself or
    /// attached elsewhere; nothing that is pending is lost.
    ///
    /// # Errors
    /// `Busy` while it has tasks, see [`AioContext::spawn_local`]; `WrongThread` while another thread drives it.
    pub fn detach(&self) -> Result<()> {
        let current = self.reactor()?;
        let private = Arc::clone(&self.core().private);
        if Arc::ptr_eq(&current, &private) {
            Ok(())
        } else {
            self.core().move_to(&current, &private)
        }
    }

    /// True when both are the same context.
    pub fn is_same(&self, other: &AioContext) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0.core
    }
}

impl fmt::Debug for AioContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AioContext")
            .field("core", &Arc::as_ptr(self.core()))
            .field("handlers", &lock(&self.core().handlers).len())
            .finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.tear_down();
    }
}

impl Core {
    /// Makes the reactor look at this context's bottom halves. Async-signal-safe.
    pub(crate) fn kick(&self, urgency: Urgency) {
        self.visit(|attachment| attachment.kick(urgency));
    }

    /// Calls `visit` with the current attachment, if there is one; it stays allocated meanwhile (invariant 1).
    fn visit(&self, visit: impl FnOnce(&Attachment)) {
        self.visitors.fetch_add(1, Ordering::SeqCst);
        // SAFETY: invariant 1: `visitors` keeps what the pointer names allocated.
        if let Some(attachment) = unsafe { self.attachment.load(Ordering::SeqCst).as_ref() } {
            visit(attachment);
        }
        self.visitors.fetch_sub(1, Ordering::SeqCst);
    }

    /// Calls `change` with the current reactor until it says that the context was still there.
    pub(crate) fn on_reactor(&self, mut change: impl FnMut(&Reactor) -> bool) {
        let mut done = false;
        while !done {
            done = true;
            self.visit(|attachment| done = change(&attachment.reactor));
        }
    }

    /// True while `reactor` is the current one.
    pub(crate) fn is_on(&self, reactor: &Reactor) -> bool {
        let mut same = false;
        self.visit(|attachment| same = ptr::eq(Arc::as_ptr(&attachment.reactor), reactor));
        same
    }

    /// Makes `attachment` the current one and frees the earlier ones if nobody visits them.
    fn bind(&self, attachment: Arc<Attachment>) {
        let mut attachments = lock(&self.attachments);
        self.attachment
            .store(Arc::as_ptr(&attachment).cast_mut(), Ordering::SeqCst);
        let mut earlier = std::mem::take(&mut *attachments);
        if self.visitors.load(Ordering::SeqCst) > 0 {
            attachments.append(&mut earlier);
        }
        attachments.push(attachment);
        drop(attachments);
        drop(earlier);
    }

    fn set_handler(&self, record: Arc<FdRecord>, replace: bool) -> Result<()> {
        let mut handlers = lock(&self.handlers);
        let is_earlier = |other: &Arc<FdRecord>| other.is_handler_of(record.fd);
        let place = handlers.iter().position(is_earlier);
        if place.is_some() && !replace {
            let message = format!("fd {} has a handler already", record.fd);
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        let earlier = place.map(|index| Arc::clone(&handlers[index]));
        let mut added = Ok(());
        self.visit(|attachment| added = attachment.reactor.add_record(&record, earlier.as_deref()));
        added?;
        if let Some(index) = place {
            handlers.swap_remove(index);
        }
        handlers.push(record);
        let replaced = earlier.inspect(|earlier| earlier.mark_removed());
        let left = self.try_retire(replaced.into_iter().map(Retired::Handler).collect());
        drop(handlers);
        unwind::drop_guarded(&"destructor of a callback", left);
        Ok(())
    }

    /// Watches for a future, beside the handler of that fd.
    pub(crate) fn add_waiter(&self, record: Arc<FdRecord>) -> Result<()> {
        let mut handlers = lock(&self.handlers);
        let message = "the AioContext has been torn down";
        let mut added = Err(Error::new(ErrorKind::Closed, message));
        self.visit(|attachment| added = attachment.reactor.add_record(&record, None));
        if added.is_ok() {
            handlers.push(record);
        }
        drop(handlers);
        added
    }

    /// Takes the handler of `fd` out; false when there is none.
    fn remove_fd(&self, fd: RawFd) -> bool {
        self.remove_handlers(|record| record.is_handler_of(fd))
    }

    /// Removes a handler whose callback panicked.
    pub(crate) fn remove_record(&self, record: &Arc<FdRecord>) {
        self.remove_handlers(|other| Arc::ptr_eq(other, record));
    }

    /// Removes the handlers that `chosen` names; true when there was one. All under the lock that a move takes, so that they
    /// leave the reactor that has them, and are left to its home.
    fn remove_handlers(&self, mut chosen: impl FnMut(&Arc<FdRecord>) -> bool) -> bool {
        let mut handlers = lock(&self.handlers);
        let removed: Vec<_> = handlers.extract_if(.., |record| chosen(record)).collect();
        let found = !removed.is_empty();
        for record in &removed {
            record.mark_removed();
            self.visit(|attachment| attachment.reactor.remove_record(record));
        }
        let left = self.try_retire(removed.into_iter().map(Retired::Handler).collect());
        drop(handlers);
        unwind::drop_guarded(&"destructor of a callback", left);
        found
    }

    /// Gives `retired` to the home to drop; after the tear-down it comes back.
    fn try_retire(&self, retired: Vec<Retired>) -> Vec<Retired> {
        let mut left = retired;
        self.visit(|attachment| attachment.reactor.retire(std::mem::take(&mut left)));
        left
    }

    /// Gives `retired` to the home to drop; after the tear-down it is dropped here.
    pub(crate) fn retire(&self, retired: Retired) {
        let left = self.try_retire(vec![retired]);
        unwind::drop_guarded(&"destructor of a callback", left);
    }

    /// Moves everything from `old` to `new`. The caller is allowed to by invariant 1, which is checked here.
    fn move_to(self: &Arc<Self>, old: &Arc<Reactor>, new: &Arc<Reactor>) -> Result<()> {
        let driving = old.drive()?;
        if self.tasks.load(Ordering::SeqCst) > 0 {
            let message = "the AioContext has tasks, which are bound to their thread; end them before it moves";
            return Err(Error::new(ErrorKind::Busy, message));
        }
        new.open()?;
        for record in self.polled_handlers() {
            old.release(&record, &driving);
            unwind::drop_guarded(&"destructor of an fd handler", record);
        }
        let handlers = lock(&self.handlers);
        for record in handlers.iter() {
            old.remove_record(record);
            record.set_paused(false);
        }
        let closed = match new.adopt_records(&handlers) {
            Ok(closed) => closed,
            Err(error) => {
                let trouble = old.readopt_records(&handlers);
                old.retire(trouble.into_iter().map(Retired::Trouble));
                return Err(error);
            }
        };
        old.forget(self, &handlers, &driving);
        self.leave();
        Reactor::move_timers(old, new, self, || self.bind(Attachment::new(self, new)));
        drop(handlers);
        // The caller may hold any lock, so what is left to destroy and to tell is left to the next home.
        new.retire(closed.into_iter().map(Retired::Trouble));
        if ptr::eq(Arc::as_ptr(old), Arc::as_ptr(&self.private)) {
            old.hand_over_retired(new, &driving);
        }
        drop(driving);
        self.kick(Urgency::Now);
        Ok(())
    }

    fn polled_handlers(&self) -> Vec<Arc<FdRecord>> {
        let mut polled = Vec::new();
        polled.extend(
            lock(&self.handlers)
                .iter()
                .filter(|record| record.handler.io_poll.is_some())
                .cloned(),
        );
        polled
    }

    /// Tells a walk over this context's bottom halves that they are not its reactor's any more.
    fn leave(&self) {
        self.visit(|attachment| attachment.gone.store(true, Ordering::Relaxed));
    }

    /// Removes the handlers, and leaves the rest to the home, or to this thread if nobody drives.
    fn tear_down(self: &Arc<Self>) {
        self.remove_handlers(|_| true);
        let mut reactor = None;
        self.visit(|attachment| reactor = Some(Arc::clone(&attachment.reactor)));
        if let Some(reactor) = reactor {
            reactor.retire([Retired::Context(Arc::clone(self))]);
            reactor.reap_if_idle();
        }
        self.private.reap_if_idle();
    }

    /// True while a bottom half of this context is being called: it is too early to end.
    pub(crate) fn runs_bhs(&self, driving: &Driving<'_>) -> bool {
        *self.slices.get(driving) > 0
    }

    /// The end of a context whose last handle is gone, on the thread that drives `reactor`, the current one.
    pub(crate) fn end(self: Arc<Self>, reactor: &Reactor, driving: &Driving<'_>) {
        task::end_all(&self);
        reactor.drop_timers(&self);
        self.release_bhs(driving);
        self.jobs.abandon();
        reactor.forget(&self, &[], driving);
        self.leave();
        self.attachment.store(ptr::null_mut(), Ordering::SeqCst);
        // A handle that raced with the last clone is done with the attachment in a few instructions.
        while self.visitors.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now();
        }
        // What such a handle has kicked holds the attachment.
        reactor.collect_ready(driving);
        let attachments = std::mem::take(&mut *lock(&self.attachments));
        drop(attachments);
    }

    /// Frees deleted bottom halves and gives the others back to their handles.
    fn release_bhs(&self, driving: &Driving<'_>) {
        let mut taken = std::mem::replace(&mut *self.slice.get(driving), Taken::empty());
        taken.append(self.bhs.close());
        loop {
            let node = taken.pop();
            if node.is_null() {
                return;
            }
            // SAFETY: the node was just taken by the thread that tears the context down, and none is being called.
            unsafe { bh::release(node) };
        }
    }
}

/// Locks a mutex whose data is consistent even if a holder panicked, because no foreign code runs under it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
