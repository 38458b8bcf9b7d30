//! The handler of one fd: its callbacks, and the record a reactor keeps of it.
#![allow(unsafe_code)] // shares callbacks that one thread at a time calls

use crate::aio::Core;
use crate::panic_boundary::{self, Panicked};
use crate::poller::{ERROR, HANGUP, READABLE, WRITABLE};
use crate::sync::Mutex;
use crate::sync::lock;
use crate::sync::{AtomicBool, AtomicU32, Ordering};
use std::fmt;
use std::os::fd::RawFd;
use std::sync::{Arc, Weak};

type Callback = Box<dyn Fn() + Send>;
type Question = Box<dyn Fn() -> bool + Send>;

/// Told when busy-polling starts and stops; shared by its handler and a home that is calling it.
pub(crate) struct Switch(pub(crate) Box<dyn Fn(bool) + Send>);

// SAFETY: only the driving thread calls it.
unsafe impl Sync for Switch {}

/// What to do when an fd is ready. Build it, then give it to
/// [`AioContext::set_fd_handler`](crate::AioContext::set_fd_handler).
///
/// Callbacks are `Fn` because a nested iteration inside one may call it again. Their destructor is the destroy notify: it
/// runs once, on the home thread, after the last call has returned.
#[derive(Default)]
pub struct FdHandler {
    pub(crate) read: Option<Callback>,
    pub(crate) write: Option<Callback>,
    pub(crate) read_poll: Option<Question>,
    pub(crate) io_poll: Option<Question>,
    pub(crate) io_poll_ready: Option<Callback>,
    pub(crate) io_poll_switch: Option<Box<dyn Fn(bool) + Send>>,
    pub(crate) edge: bool,
    pub(crate) quiet: bool,
    /// Serves a future: goes beside the fd's handler.
    is_waiter: bool,
}

impl FdHandler {
    /// A handler that wants nothing yet.
    pub fn new() -> Self {
        FdHandler::default()
    }

    /// Called while the fd is readable, hung up or in error.
    #[must_use]
    pub fn on_read(mut self, callback: impl Fn() + Send + 'static) -> Self {
        self.read = Some(Box::new(callback));
        self
    }

    /// Called while the fd is writable or in error, or hung up and nobody reads it.
    #[must_use]
    pub fn on_write(mut self, callback: impl Fn() + Send + 'static) -> Self {
        self.write = Some(Box::new(callback));
        self
    }

    /// Asked before each read; `false` pauses reading, and the question is asked again at each iteration.
    #[must_use]
    pub fn read_poll(mut self, question: impl Fn() -> bool + Send + 'static) -> Self {
        self.read_poll = Some(Box::new(question));
        self
    }

    /// Report each new readiness once instead of for as long as it lasts: for eventfds that are never read.
    #[must_use]
    pub fn edge_triggered(mut self) -> Self {
        self.edge = true;
        self
    }

    /// Its calls do not count as progress: for what only wakes the loop.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Lets the home busy-poll before it sleeps: `poll` looks for work without a system call, `ready` handles what it found.
    #[must_use]
    pub fn io_poll(
        mut self,
        poll: impl Fn() -> bool + Send + 'static,
        ready: impl Fn() + Send + 'static,
    ) -> Self {
        self.io_poll = Some(Box::new(poll));
        self.io_poll_ready = Some(Box::new(ready));
        self
    }

    /// Called with `true` before busy-polling starts and with `false` before the home may sleep: where the peer's
    /// notifications go off and on.
    #[must_use]
    pub fn io_poll_switch(mut self, switch: impl Fn(bool) + Send + 'static) -> Self {
        self.io_poll_switch = Some(Box::new(switch));
        self
    }

    /// Makes it one that goes beside the fd's handler.
    pub(crate) fn waiting(mut self) -> Self {
        self.is_waiter = true;
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.read.is_none() && self.write.is_none()
    }
}

impl fmt::Debug for FdHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FdHandler")
            .field("read", &self.read.is_some())
            .field("write", &self.write.is_some())
            .field("read_poll", &self.read_poll.is_some())
            .field("edge", &self.edge)
            .finish_non_exhaustive()
    }
}

/// A registered handler. Shared by the AioContext that owns it, the reactor's fd table and the batch being dispatched.
pub(crate) struct FdRecord {
    pub(crate) fd: RawFd,
    pub(crate) core: Weak<Core>,
    pub(crate) handler: FdHandler,
    /// The handler's switch, which alone may change.
    switch: Mutex<Option<Arc<Switch>>>,
    /// What the switch was told last; home only.
    told: AtomicBool,
    /// Set at once by a removal from any thread; tested before every call.
    removed: AtomicBool,
    /// Reading waits for `read_poll`; written by the home.
    paused: AtomicBool,
    /// Calls that have not returned; written by the home.
    calls: AtomicU32,
    /// Runs when everything above has been dropped.
    after: After,
}

/// What is to run once a handler's callbacks are no more.
#[derive(Default)]
struct After(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Drop for After {
    fn drop(&mut self) {
        let after = lock(&self.0).take();
        if let Some(after) = after {
            after();
        }
    }
}

// SAFETY: only the driving thread calls the callbacks, and at most one thread drives; the flags are atomic.
unsafe impl Sync for FdRecord {}

impl FdRecord {
    pub(crate) fn new(fd: RawFd, mut handler: FdHandler, core: Weak<Core>) -> Self {
        let switch = handler.io_poll_switch.take();
        let (removed, paused) = (AtomicBool::new(false), AtomicBool::new(false));
        FdRecord {
            fd,
            core,
            handler,
            switch: Mutex::new(switch.map(|switch| Arc::new(Switch(switch)))),
            told: AtomicBool::new(false),
            removed,
            paused,
            calls: AtomicU32::new(0),
            after: After::default(),
        }
    }

    /// Lets `after` run when the callbacks have been dropped.
    pub(crate) fn after_drop(&self, after: Box<dyn FnOnce() + Send>) {
        *lock(&self.after.0) = Some(after);
    }

    /// True while the switch has been told that its handler is polled.
    pub(crate) fn is_told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    /// Notes what the switch is told; what it was told before is the answer.
    pub(crate) fn tell(&self, polling: bool) -> bool {
        self.told.swap(polling, Ordering::Relaxed)
    }

    /// What is to be told when busy-polling starts and stops.
    pub(crate) fn switch(&self) -> Option<Arc<Switch>> {
        lock(&self.switch).clone()
    }

    /// Changes that; the earlier one comes back and is the home's to drop.
    pub(crate) fn replace_switch(&self, switch: Option<Arc<Switch>>) -> Option<Arc<Switch>> {
        std::mem::replace(&mut lock(&self.switch), switch)
    }

    /// True when this is what `set_fd_handler` has set for `fd`.
    pub(crate) fn is_handler_of(&self, fd: RawFd) -> bool {
        self.fd == fd && !self.handler.is_waiter
    }

    /// True when `core` has it, or had until it was removed.
    pub(crate) fn is_of(&self, core: &Arc<Core>) -> bool {
        std::ptr::eq(self.core.as_ptr(), Arc::as_ptr(core))
    }

    /// The poller events this record wants now.
    pub(crate) fn interest(&self) -> u32 {
        let read = self.handler.read.is_some() && !self.is_paused();
        let write = self.handler.write.is_some();
        u32::from(read) * READABLE + u32::from(write) * WRITABLE
    }

    /// True when `ready` asks for the read callback.
    pub(crate) fn wants_read(&self, ready: u32) -> bool {
        self.interest() & READABLE != 0 && ready & (READABLE | HANGUP | ERROR) != 0
    }

    /// True when `ready` asks for the write callback. A hang-up goes to the writer only when nobody reads, for it would be
    /// reported for ever otherwise.
    pub(crate) fn wants_write(&self, ready: u32) -> bool {
        let mask = WRITABLE
            | ERROR
            | if self.handler.read.is_none() {
                HANGUP
            } else {
                0
            };
        self.interest() & WRITABLE != 0 && ready & mask != 0
    }

    /// Calls one of the callbacks.
    pub(crate) fn call<T>(&self, callback: impl FnOnce() -> T) -> Result<T, Panicked> {
        let calls = self.calls.load(Ordering::Relaxed);
        self.calls.store(calls + 1, Ordering::Relaxed);
        let outcome = panic_boundary::guard(self, callback);
        self.calls.store(calls, Ordering::Relaxed);
        outcome
    }

    /// True while a callback runs. On the home thread.
    pub(crate) fn is_called(&self) -> bool {
        self.calls.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn mark_removed(&self) {
        self.removed.store(true, Ordering::Release);
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Release);
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }
}

impl fmt::Display for FdRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "handler of fd {}", self.fd)
    }
}
