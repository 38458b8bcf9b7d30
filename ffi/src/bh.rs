//! Bottom halves.
#![allow(unsafe_code)] // pointers from C

use crate::boundary::{Fault, enter, enter_fallible, free};
use crate::callback::QContextFunc;
use crate::handle::{self, QContextAio};
use crate::user::{Fate, register, send_to_aio};
use glib_sys::{GDestroyNotify, GError, gboolean, gpointer};
use qcontext::Bh;
use std::ffi::{CStr, c_char};
use std::ptr;
use std::sync::Arc;

/// QContextBh:
/// A deferred callback that any thread can schedule.
pub struct QContextBh {
    bh: Bh,
    fate: Arc<Fate>,
}

impl std::fmt::Debug for QContextBh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.bh.fmt(f)
    }
}

/// The name of a bottom half, kept for ever: they are few.
///
/// # Safety
/// `name` is NULL or a C string.
unsafe fn interned(name: *const c_char) -> &'static str {
    if name.is_null() {
        return "bh";
    }
    // SAFETY: the caller's string.
    let kept = unsafe { glib_sys::g_intern_string(name) };
    // SAFETY: GLib keeps interned strings for ever.
    unsafe { CStr::from_ptr(kept) }.to_str().unwrap_or("bh")
}

/// qcontext_bh_new:
/// Creates a bottom half.
/// @aio: the AioContext it runs on
/// @name: (nullable): for people who look for what holds the loop; kept for ever, so use few different ones
/// @func: the callback
/// @user_data: its data
/// @destroy: (nullable): runs when the bottom half was deleted and its last call has returned, on the thread that drives
///
/// Returns: (transfer full) (nullable): the bottom half, not scheduled; free with qcontext_bh_delete().
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_bh_new(
    aio: *mut QContextAio,
    name: *const c_char,
    func: QContextFunc,
    user_data: gpointer,
    destroy: GDestroyNotify,
) -> *mut QContextBh {
    enter("qcontext_bh_new", ptr::null_mut(), || {
        // SAFETY: the caller's AioContext.
        let aio = unsafe { handle::aio(aio) }?;
        if func.is_none() {
            return Err(Fault::Misuse("the callback is NULL"));
        }
        // SAFETY: the caller's string.
        let name = unsafe { interned(name) };
        let (bh, fate) = register(user_data, destroy, send_to_aio(&aio), |user, fate| {
            Ok((
                aio.bh(name, move || user.call_counted(func)),
                Arc::clone(fate),
            ))
        })?;
        Ok(Box::into_raw(Box::new(QContextBh { bh, fate })))
    })
}

/// # Safety
/// `bh` is NULL or a bottom half of the caller's.
unsafe fn borrow<'a>(bh: *const QContextBh) -> Result<&'a QContextBh, Fault> {
    // SAFETY: the caller's word.
    unsafe { bh.as_ref() }.ok_or(Fault::Misuse("the bottom half is NULL"))
}

/// qcontext_bh_schedule:
/// Runs the callback once in the next iteration, however often it is scheduled before that.
/// @bh: a bottom half
///
/// Any thread, any locks held, also from a signal handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_bh_schedule(bh: *mut QContextBh) {
    enter("qcontext_bh_schedule", (), || {
        // SAFETY: the caller's bottom half.
        unsafe { borrow(bh) }?.bh.schedule();
        Ok(())
    });
}

/// qcontext_bh_schedule_idle:
/// Runs the callback when the AioContext iterates anyway, at the latest after 10 ms. It does not count as progress.
/// @bh: a bottom half
///
/// Any thread, any locks held, also from a signal handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_bh_schedule_idle(bh: *mut QContextBh) {
    enter("qcontext_bh_schedule_idle", (), || {
        // SAFETY: the caller's bottom half.
        unsafe { borrow(bh) }?.bh.schedule_idle();
        Ok(())
    });
}

/// qcontext_bh_cancel:
/// Takes a schedule back, if the callback has not begun.
/// @bh: a bottom half
///
/// Any thread, any locks held, also from a signal handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_bh_cancel(bh: *mut QContextBh) {
    enter("qcontext_bh_cancel", (), || {
        // SAFETY: the caller's bottom half.
        unsafe { borrow(bh) }?.bh.cancel();
        Ok(())
    });
}

/// qcontext_bh_delete:
/// Deletes the bottom half, also from inside its callback. A call that has not begun does not happen; one that has begun on
/// another thread may still run. The destroy notify says when the user data may be freed.
/// @bh: (nullable) (transfer full): a bottom half; NULL is ignored
///
/// Any thread, any locks held; never waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_bh_delete(bh: *mut QContextBh) {
    // SAFETY: the bottom half that the caller gives back.
    unsafe { free("qcontext_bh_delete", bh) };
}

/// qcontext_bh_delete_sync:
/// As qcontext_bh_delete(), and waits until a running call has returned. The destroy notify runs on the thread that drives, which
/// may be later.
/// @bh: (transfer full): a bottom half
/// @error: WOULD_DEADLOCK inside its own callback; nothing has changed then
///
/// Returns: TRUE when it is deleted and no call runs or will run.
///
/// Any thread; blocks, so no lock that the callback takes may be held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_bh_delete_sync(
    bh: *mut QContextBh,
    error: *mut *mut GError,
) -> gboolean {
    let body = || {
        // SAFETY: the caller's bottom half.
        let held = unsafe { borrow(bh) }?;
        held.fate.close()?;
        // SAFETY: the bottom half that the caller gives back.
        drop(unsafe { Box::from_raw(bh) });
        Ok(1)
    };
    // SAFETY: the caller's place for an error.
    unsafe { enter_fallible("qcontext_bh_delete_sync", 0, error, body) }
}

/// qcontext_bh_oneshot:
/// Runs a callback once in the next iteration.
/// @aio: the AioContext it runs on
/// @name: (nullable): as for qcontext_bh_new()
/// @func: the callback
/// @user_data: its data
/// @destroy: (nullable): runs after the callback, or without it when the AioContext goes first
///
/// Returns: TRUE; FALSE for misuse, and nothing was taken then.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_bh_oneshot(
    aio: *mut QContextAio,
    name: *const c_char,
    func: QContextFunc,
    user_data: gpointer,
    destroy: GDestroyNotify,
) -> gboolean {
    enter("qcontext_bh_oneshot", 0, || {
        // SAFETY: the caller's AioContext.
        let aio = unsafe { handle::aio(aio) }?;
        if func.is_none() {
            return Err(Fault::Misuse("the callback is NULL"));
        }
        // SAFETY: the caller's string.
        let name = unsafe { interned(name) };
        register(user_data, destroy, send_to_aio(&aio), |user, _| {
            aio.schedule_oneshot(name, move || user.call(func));
            Ok(())
        })?;
        Ok(1)
    })
}
