//! Fd handlers of an AioContext.
#![allow(unsafe_code)] // entry points

use crate::argument::{Pointee, entry};
use crate::boundary::Fault;
use crate::callback::{QContextBoolFunc, QContextFunc};
use crate::fd::{check_fd, handler, remove_sync};
use crate::handle::QContextAio;
use crate::notifier::QContextNotifier;
use crate::user::{UserData, register, send_to_aio};
use glib_sys::{GDestroyNotify, GError, gboolean, gpointer};
use qcontext::{AioContext, Error, ErrorKind, FdHandler};
use std::ffi::c_int;
use std::sync::Arc;

/// For fds that are never read back, such as a device's kicks: each new readiness is reported once.
pub const QCONTEXT_FD_EDGE_TRIGGERED: u32 = 1;

/// QContextFdOps:
/// What to do when an fd is ready. Start from an all-zero structure and set the fields you need.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct QContextFdOps {
    /// Called while the fd is readable, hung up or in error.
    pub read: QContextFunc,
    /// Called while the fd is writable or in error, or hung up while read is NULL.
    pub write: QContextFunc,
    /// Asked when the fd is readable; FALSE pauses reading, and it is asked again at each iteration.
    pub can_read: QContextBoolFunc,
    /// Looks for work without a system call before the loop sleeps. Ignored without io_poll_ready.
    pub io_poll: QContextBoolFunc,
    /// Handles what io_poll found.
    pub io_poll_ready: QContextFunc,
    /// Called before busy-polling starts: the peer's notifications may go off.
    pub io_poll_begin: QContextFunc,
    /// Called before the loop may sleep: the peer's notifications go on again.
    pub io_poll_end: QContextFunc,
    /// QCONTEXT_FD_EDGE_TRIGGERED or 0.
    pub flags: u32,
    /// 0.
    pub reserved: [usize; 3],
}

impl Pointee for QContextFdOps {}

impl QContextFdOps {
    fn handler(&self, user: &Arc<UserData>) -> FdHandler {
        let mut handler = handler(user, self.can_read, self.read, self.write);
        if let (Some(poll), Some(_)) = (self.io_poll, self.io_poll_ready) {
            let (asked, called, ready) = (Arc::clone(user), Arc::clone(user), self.io_poll_ready);
            handler = handler.io_poll(move || asked.ask(poll), move || called.call(ready));
        }
        if self.io_poll_begin.is_some() || self.io_poll_end.is_some() {
            let (user, begin, end) = (Arc::clone(user), self.io_poll_begin, self.io_poll_end);
            handler =
                handler.io_poll_switch(move |polling| user.call(if polling { begin } else { end }));
        }
        if self.flags & QCONTEXT_FD_EDGE_TRIGGERED != 0 {
            handler = handler.edge_triggered();
        }
        handler
    }
}

/// qcontext_aio_set_fd_handler:
/// Watches an fd, in place of the AioContext's earlier handler of it.
/// @aio: an AioContext
/// @fd: the fd
/// @ops: (nullable): the callbacks, which are copied; NULL, or neither read nor write, removes the handler as by
/// qcontext_aio_remove_fd(), and @destroy is not called
/// @user_data: data of all of them
/// @destroy: (nullable): runs when the handler was removed and its last call has returned, on the thread that drives
/// @error: INVALID_ARGUMENT for unknown flags, OS
///
/// Returns: FALSE on failure; nothing has changed then.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_aio_set_fd_handler(
    aio: *mut QContextAio,
    fd: c_int,
    ops: *const QContextFdOps,
    user_data: gpointer,
    destroy: GDestroyNotify,
    error: *mut *mut GError,
) -> gboolean {
    entry!(qcontext_aio_set_fd_handler, 0, error, |aio: AioContext,
                                                   ops: Option<
        &QContextFdOps,
    >| {
        check_fd(fd)?;
        let given = ops.filter(|given| given.read.is_some() || given.write.is_some());
        let Some(given) = given else {
            aio.remove_fd_handler(fd);
            return Ok(1);
        };
        if given.flags & !QCONTEXT_FD_EDGE_TRIGGERED != 0 {
            return Err(Fault::Misuse("the flags are unknown"));
        }
        register(user_data, destroy, send_to_aio(&aio), |user, _| {
            aio.set_fd_handler(fd, given.handler(&user))
        })?;
        Ok(1)
    })
}

/// qcontext_aio_set_notifier_poll_cbs:
/// Changes what is called when busy-polling starts and stops, for the handler of a notifier: see QContextFdOps. Takes effect at
/// the next start or stop, and ends with the handler.
/// @aio: an AioContext
/// @notifier: a notifier that the AioContext watches
/// @begin: (nullable): called before busy-polling starts
/// @end: (nullable): called before the loop may sleep
/// @user_data: data of both
/// @destroy: (nullable): runs when they were replaced or the handler was removed, after their last call, on the thread that drives;
/// not used without @begin and @end, which removes both
/// @error: INVALID_ARGUMENT when the notifier is not initialised, NOT_FOUND when it has no handler
///
/// Returns: FALSE on failure; nothing has changed then.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_aio_set_notifier_poll_cbs(
    aio: *mut QContextAio,
    notifier: *const QContextNotifier,
    begin: QContextFunc,
    end: QContextFunc,
    user_data: gpointer,
    destroy: GDestroyNotify,
    error: *mut *mut GError,
) -> gboolean {
    entry!(
        qcontext_aio_set_notifier_poll_cbs,
        0,
        error,
        |aio: AioContext, notifier: &QContextNotifier| {
            let fd = notifier.read_fd();
            check_fd(fd)?;
            let not_found = || Error::new(ErrorKind::NotFound, format!("fd {fd} has no handler"));
            if begin.is_none() && end.is_none() {
                return match aio.remove_io_poll_switch(fd) {
                    true => Ok(1),
                    false => Err(not_found().into()),
                };
            }
            register(user_data, destroy, send_to_aio(&aio), |user, _| {
                let switch = move |polling| user.call(if polling { begin } else { end });
                match aio.set_io_poll_switch(fd, switch) {
                    true => Ok(1),
                    false => Err(not_found()),
                }
            })
        }
    )
}

/// qcontext_aio_remove_fd:
/// As qcontext_remove_fd(), for an AioContext's handler.
/// @aio: an AioContext
/// @fd: the fd
///
/// Returns: FALSE when the AioContext did not watch it.
///
/// Any thread, any locks held; never waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_aio_remove_fd(aio: *mut QContextAio, fd: c_int) -> gboolean {
    entry!(qcontext_aio_remove_fd, 0, |aio: AioContext| {
        Ok(aio.remove_fd_handler(fd).into())
    })
}

/// qcontext_aio_remove_fd_sync:
/// As qcontext_remove_fd_sync(), for an AioContext's handler.
/// @aio: an AioContext
/// @fd: the fd
/// @error: NOT_FOUND, WOULD_DEADLOCK on the thread that drives it; nothing has changed then
///
/// Returns: TRUE when the last callback has returned and the destroy notify has run.
///
/// Any thread but the one that drives it; blocks, so no lock that callbacks take may be held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_aio_remove_fd_sync(
    aio: *mut QContextAio,
    fd: c_int,
    error: *mut *mut GError,
) -> gboolean {
    entry!(qcontext_aio_remove_fd_sync, 0, error, |aio: AioContext| {
        let remove = |done| aio.remove_fd_handler_then(fd, done);
        remove_sync(fd, aio.is_home(), remove, || aio.reap())
    })
}
