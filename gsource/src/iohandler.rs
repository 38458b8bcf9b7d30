//! Iohandlers: the classic table of fd handlers with `read_poll`, keyed by fd, as a source of its own.
//!
//! It is an AioContext that only watches fds; what it adds is the classic call with its four callbacks. On a home, an iteration
//! that polls another AioContext leaves its handlers aside.
//!
//! # Threads
//! As for [`AioContext`]: changes from any thread, callbacks on the home.
#![forbid(unsafe_code)]

use crate::{AioContext, FdHandler, Result};
use std::os::fd::RawFd;

/// The fd handlers of a context, as a GSource.
#[derive(Clone, Debug)]
pub struct IoHandlers(AioContext);

impl IoHandlers {
    /// The name under which a context finds its iohandlers.
    pub const SOURCE_NAME: &'static str = "source-type-iohandler";

    /// An empty table.
    ///
    /// # Errors
    /// As for [`AioContext::new`].
    pub fn new() -> Result<IoHandlers> {
        Ok(IoHandlers(AioContext::aside()))
    }

    /// Sets the handler of `fd`, in place of an earlier one; a handler without callbacks removes it.
    ///
    /// # Errors
    /// The kernel's, when it cannot watch the fd.
    pub fn set_fd_handler(&self, fd: RawFd, handler: FdHandler) -> Result<()> {
        self.0.set_fd_handler(fd, handler)
    }

    /// Removes the handler of `fd`; false when there was none.
    pub fn remove_fd_handler(&self, fd: RawFd) -> bool {
        self.0.remove_fd_handler(fd)
    }

    /// The AioContext behind the table, to attach it or to take its GSource.
    pub fn aio(&self) -> &AioContext {
        &self.0
    }
}
