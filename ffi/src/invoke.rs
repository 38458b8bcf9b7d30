//! Running a function on a context.
#![allow(unsafe_code)] // pointers from C

use crate::argument::entry;
use crate::boundary::Fault;
use crate::callback::QContextFunc;
use crate::handle::QContext;
use crate::user::{register, send_to};
use glib_sys::{GDestroyNotify, GError, gboolean, gpointer};
use qcontext::QContext as Context;

/// qcontext_invoke:
/// Runs a function once on the context. It is always queued; functions run in the order of the calls.
/// @context: a context
/// @func: the function
/// @user_data: its data
/// @destroy: (nullable): runs after @func, or without it when the context stops first
/// @error: CLOSED after a stop; nothing was taken then
///
/// Returns: TRUE when it was queued.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_invoke(
    context: *mut QContext,
    func: QContextFunc,
    user_data: gpointer,
    destroy: GDestroyNotify,
    error: *mut *mut GError,
) -> gboolean {
    entry!(qcontext_invoke, 0, error, |context: Context| {
        if func.is_none() {
            return Err(Fault::Misuse("the function is NULL"));
        }
        register(user_data, destroy, send_to(&context), |user, _| {
            context.invoke(move || user.call(func))
        })?;
        Ok(1)
    })
}

/// qcontext_invoke_sync:
/// Runs a function on the context and waits for it; on the context's own thread it runs at once.
/// @context: a context
/// @func: the function
/// @user_data: its data
/// @error: WOULD_DEADLOCK when the context waits, directly or through others, for the caller's context; CLOSED after a stop
///
/// Returns: TRUE when @func has run.
///
/// Any thread; blocks, so no lock that callbacks of the context take may be held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_invoke_sync(
    context: *mut QContext,
    func: QContextFunc,
    user_data: gpointer,
    error: *mut *mut GError,
) -> gboolean {
    entry!(qcontext_invoke_sync, 0, error, |context: Context| {
        if func.is_none() {
            return Err(Fault::Misuse("the function is NULL"));
        }
        let send_late = |_| {};
        register(user_data, None, send_late, |user, _| {
            context.invoke_sync(move || user.call(func))
        })?;
        Ok(1)
    })
}

/// Runs `func` on `context`, or here when that has stopped.
fn run_on(context: Option<&Context>, user_data: gpointer, func: QContextFunc) {
    let call = CallOnDrop(func, user_data);
    if let Some(context) = context {
        let _ = context.invoke(move || drop(call));
    }
}

/// Calls a function when it is dropped. So a completion runs even if the context stops first, and nothing waits for it for
/// ever.
struct CallOnDrop(QContextFunc, gpointer);

// SAFETY: promise 5: the data may be used on the thread of the context.
unsafe impl Send for CallOnDrop {}

impl Drop for CallOnDrop {
    fn drop(&mut self) {
        if let Some(func) = self.0 {
            // SAFETY: C registered this function for this data.
            unsafe { func(self.1) };
        }
    }
}

/// A completion function, with the context on which it runs. Without a context it runs on the completing thread.
pub(crate) struct Completion {
    context: Option<Context>,
    func: QContextFunc,
    data: gpointer,
}

// SAFETY: as for `CallOnDrop`.
unsafe impl Send for Completion {}

impl Completion {
    pub(crate) fn new(func: QContextFunc, data: gpointer, context: Option<Context>) -> Completion {
        Completion {
            context,
            func,
            data,
        }
    }

    pub(crate) fn run(self) {
        run_on(self.context.as_ref(), self.data, self.func);
    }
}
