//! What to do when an fd is ready: the callbacks of a handler.
#![allow(unsafe_code)] // shares a callback that one thread at a time calls

use std::fmt;

type Callback = Box<dyn Fn() + Send>;
type Question = Box<dyn Fn() -> bool + Send>;

/// Called when busy-polling starts and stops. Shared by its handler and a home that is calling it.
pub(crate) struct PollSwitch(pub(crate) Box<dyn Fn(bool) + Send>);

// SAFETY: only the driving thread calls it.
unsafe impl Sync for PollSwitch {}

/// What to do when an fd is ready. Build it, then give it to
/// [`AioContext::set_fd_handler`](crate::AioContext::set_fd_handler).
///
/// Callbacks are `Fn` because a nested iteration inside one may call it again. Their destructor is the destroy notify: it
/// runs once, on the home thread, after the last call has returned.
#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a setting of its own, with a function that sets it"
)]
pub struct FdHandler {
    pub(crate) read: Option<Callback>,
    pub(crate) write: Option<Callback>,
    pub(crate) read_poll: Option<Question>,
    pub(crate) io_poll: Option<Question>,
    pub(crate) io_poll_ready: Option<Callback>,
    pub(crate) io_poll_switch: Option<Box<dyn Fn(bool) + Send>>,
    pub(crate) edge: bool,
    pub(crate) quiet: bool,
    pub(crate) aside: bool,
    /// Serves a future: goes beside the fd's handler.
    pub(super) is_waiter: bool,
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

    /// Called while the fd is writable or in error, or hung up and without a reader.
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

    /// Reports each new readiness once instead of for as long as it lasts: for eventfds that are never read.
    #[must_use]
    pub fn edge_triggered(mut self) -> Self {
        self.edge = true;
        self
    }

    /// Its calls do not count as progress: for fds that only wake the loop.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Only the home's own iterations wait for it and call it, [`AioContext::poll`](crate::AioContext::poll) does not: for what must
    /// not run while a callback waits for something else.
    #[must_use]
    pub fn aside(mut self) -> Self {
        self.aside = true;
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
