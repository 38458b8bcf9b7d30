//! Fd handlers of a context: the classic table keyed by fd.
#![allow(unsafe_code)] // entry points

use crate::argument::entry;
use crate::boundary::Fault;
use crate::callback::{QContextBoolFunc, QContextFunc};
use crate::handle::QContext;
use crate::invoke::Completion;
use crate::user::{UserData, register, send_to};
use glib_sys::{GDestroyNotify, GError, gboolean, gpointer};
use qcontext::QContext as Context;
use qcontext::{Error, ErrorKind, FdHandler};
use std::ffi::c_int;
use std::sync::{Arc, mpsc};

/// A handler of C callbacks.
pub(crate) fn handler(
    user: &Arc<UserData>,
    can_read: QContextBoolFunc,
    read: QContextFunc,
    write: QContextFunc,
) -> FdHandler {
    let mut handler = FdHandler::new();
    if read.is_some() {
        let user = Arc::clone(user);
        handler = handler.on_read(move || user.call(read));
    }
    if write.is_some() {
        let user = Arc::clone(user);
        handler = handler.on_write(move || user.call(write));
    }
    if let Some(can_read) = can_read {
        let user = Arc::clone(user);
        handler = handler.read_poll(move || user.ask(can_read));
    }
    handler
}

pub(crate) fn check_fd(fd: c_int) -> Result<(), Fault> {
    if fd < 0 {
        return Err(Fault::Error(Error::new(
            ErrorKind::InvalidArgument,
            format!("{fd} is not a file descriptor"),
        )));
    }
    Ok(())
}

/// qcontext_add_fd:
/// Watches an fd that the context does not watch yet.
/// @context: a context
/// @fd: the fd
/// @can_read: (nullable): asked when @fd is readable; FALSE pauses reading, and it is asked again at each iteration
/// @read: (nullable): called while @fd is readable, hung up or in error
/// @write: (nullable): called while @fd is writable or in error, or hung up while @read is NULL
/// @user_data: data of all three
/// @destroy: (nullable): runs when the handler was removed and its last call has returned, on the context's thread
/// @error: EXISTS when the fd has a handler, INVALID_ARGUMENT without @read and @write, OS, CLOSED after a stop
///
/// Returns: TRUE when the fd is watched; otherwise nothing was taken.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_add_fd(
    context: *mut QContext,
    fd: c_int,
    can_read: QContextBoolFunc,
    read: QContextFunc,
    write: QContextFunc,
    user_data: gpointer,
    destroy: GDestroyNotify,
    error: *mut *mut GError,
) -> gboolean {
    entry!(qcontext_add_fd, 0, error, |context: Context| {
        check_fd(fd)?;
        register(user_data, destroy, send_to(&context), |user, _| {
            context.add_fd_handler(fd, handler(&user, can_read, read, write))
        })?;
        Ok(1)
    })
}

/// qcontext_set_fd_handler:
/// Watches an fd, in place of the context's earlier handler of it. Without @read and @write that is removed, as by
/// qcontext_remove_fd(), and @destroy is not called.
/// @context: a context
/// @fd: the fd
/// @can_read: (nullable): as for qcontext_add_fd()
/// @read: (nullable): as for qcontext_add_fd()
/// @write: (nullable): as for qcontext_add_fd()
/// @user_data: data of all three
/// @destroy: (nullable): as for qcontext_add_fd()
/// @error: OS, CLOSED after a stop
///
/// Returns: FALSE on failure; nothing has changed then.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_set_fd_handler(
    context: *mut QContext,
    fd: c_int,
    can_read: QContextBoolFunc,
    read: QContextFunc,
    write: QContextFunc,
    user_data: gpointer,
    destroy: GDestroyNotify,
    error: *mut *mut GError,
) -> gboolean {
    entry!(qcontext_set_fd_handler, 0, error, |context: Context| {
        check_fd(fd)?;
        if read.is_none() && write.is_none() {
            context.remove_fd_handler(fd);
            return Ok(1);
        }
        register(user_data, destroy, send_to(&context), |user, _| {
            context.set_fd_handler(fd, handler(&user, can_read, read, write))
        })?;
        Ok(1)
    })
}

/// qcontext_remove_fd:
/// Stops watching an fd. On return the fd is out of the poll set. It may be closed, and its number reused, at once. A callback
/// that has begun on the context's thread may still run. The destroy notify runs when the user data may be freed.
/// @context: a context
/// @fd: the fd
///
/// Returns: FALSE when the context did not watch it.
///
/// Any thread, any locks held; never waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_remove_fd(context: *mut QContext, fd: c_int) -> gboolean {
    entry!(qcontext_remove_fd, 0, |context: Context| {
        Ok(context.remove_fd_handler(fd).into())
    })
}

/// qcontext_remove_fd_sync:
/// As qcontext_remove_fd(), and waits until the last callback has returned and the destroy notify has run. When no thread runs
/// the context, the notify runs on the calling thread.
/// @context: a context
/// @fd: the fd
/// @error: NOT_FOUND when the context did not watch it, WOULD_DEADLOCK on the context's own thread; nothing has changed then
///
/// Returns: TRUE when all of that is done.
///
/// Any thread but the context's own; blocks, so no lock that callbacks of the context take may be held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_remove_fd_sync(
    context: *mut QContext,
    fd: c_int,
    error: *mut *mut GError,
) -> gboolean {
    entry!(qcontext_remove_fd_sync, 0, error, |context: Context| {
        let remove = |done| context.remove_fd_handler_then(fd, done);
        remove_sync(fd, context.is_current(), remove, || context.reap())
    })
}

type OnRemoved = Box<dyn FnOnce() + Send>;

/// Removes a handler with `remove` and waits until it is dropped. `reap` drops it here if no thread drives.
pub(crate) fn remove_sync(
    fd: c_int,
    is_home: bool,
    remove: impl FnOnce(OnRemoved) -> bool,
    reap: impl FnOnce(),
) -> Result<gboolean, Fault> {
    if is_home {
        let message =
            format!("the handler of fd {fd} cannot be waited for on the thread that runs it");
        return Err(Fault::Error(Error::new(ErrorKind::WouldDeadlock, message)));
    }
    let (sender, done) = mpsc::sync_channel(1);
    if !remove(Box::new(move || sender.send(()).unwrap_or_default())) {
        return Err(Fault::Error(Error::new(
            ErrorKind::NotFound,
            format!("fd {fd} has no handler"),
        )));
    }
    reap();
    // An error means that the sender was dropped, and the handler with it.
    let _ = done.recv();
    Ok(1)
}

/// qcontext_remove_fd_async:
/// As qcontext_remove_fd(), and calls @done after the end.
/// @context: a context
/// @fd: the fd
/// @done: (nullable): runs once after the last callback has returned and the destroy notify has run
/// @user_data: data of @done
/// @done_context: (nullable): the context on which @done runs; NULL for the thread that ran the destroy notify
///
/// Returns: FALSE when the context did not watch it; @done is not called then.
///
/// Any thread, any locks held; never waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_remove_fd_async(
    context: *mut QContext,
    fd: c_int,
    done: QContextFunc,
    user_data: gpointer,
    done_context: *mut QContext,
) -> gboolean {
    entry!(qcontext_remove_fd_async, 0, |context: Context,
                                         done_context: Option<
        Context,
    >| {
        let completion = Completion::new(done, user_data, done_context);
        Ok(context
            .remove_fd_handler_then(fd, move || completion.run())
            .into())
    })
}
