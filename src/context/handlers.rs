//! The fd handlers of a context.
#![forbid(unsafe_code)]

use super::QContext;
use crate::{AioContext, FdHandler, Result};
use std::os::fd::RawFd;

impl QContext {
    /// The AioContext that holds the fd handlers of this context. [`AioContext::poll`] of another AioContext of this context does not
    /// call them. On `qcontext-main` it is a GSource of its own, and such a poll does not run its bottom halves and timers either.
    ///
    /// # Errors
    /// `Closed` after a stop.
    pub fn iohandlers(&self) -> Result<AioContext> {
        Ok(self.core().handlers()?.aio().clone())
    }

    /// Watches `fd` on this context, and replaces an earlier handler of it.
    ///
    /// # Errors
    /// `Os` when the kernel cannot watch the fd; `Closed` after a stop. The handler was not taken then.
    pub fn set_fd_handler(&self, fd: RawFd, handler: FdHandler) -> Result<()> {
        self.core().handlers()?.set_fd_handler(fd, handler)
    }

    /// As [`QContext::set_fd_handler`], but does not replace a handler.
    ///
    /// # Errors
    /// As for [`AioContext::add_fd_handler`]; `Closed` after a stop.
    pub fn add_fd_handler(&self, fd: RawFd, handler: FdHandler) -> Result<()> {
        self.core().handlers()?.aio().add_fd_handler(fd, handler)
    }

    /// Stops watching `fd`; false when it was not watched. See [`AioContext::remove_fd_handler`].
    pub fn remove_fd_handler(&self, fd: RawFd) -> bool {
        self.core()
            .handlers()
            .is_ok_and(|handlers| handlers.remove_fd_handler(fd))
    }

    /// As [`QContext::remove_fd_handler`], and calls `done` when the handler has been dropped. See
    /// [`AioContext::remove_fd_handler_then`].
    pub fn remove_fd_handler_then(&self, fd: RawFd, done: impl FnOnce() + Send + 'static) -> bool {
        self.core()
            .handlers()
            .is_ok_and(|handlers| handlers.aio().remove_fd_handler_then(fd, done))
    }

    /// Drops removed handlers now, unless another thread runs this context: then that thread does it. See
    /// [`AioContext::reap`].
    #[doc(hidden)] // for the C ABI
    pub fn reap(&self) {
        if let Ok(_owner) = self.core().gmain.acquire() {
            self.core().reactor.reap_if_idle();
            if let Ok(handlers) = self.core().handlers() {
                handlers.aio().reap();
            }
        }
    }
}
