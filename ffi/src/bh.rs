//! Bottom halves.
#![allow(unsafe_code)] // entry points, interned strings

use crate::argument::{FromC, Given, Pointee, entry, give};
use crate::boundary::Fault;
use crate::callback::QContextFunc;
use crate::handle::QContextAio;
use crate::leftover::{HandleTie, LeftHandle};
use crate::user::{Registration, UserData, register, send_to_aio};
use glib_sys::{GDestroyNotify, GError, gboolean, gpointer};
use qcontext::{AioContext, Bh};
use std::ffi::{CStr, c_char};
use std::ptr;
use std::sync::{Arc, OnceLock};

/// QContextBh:
/// A deferred callback that any thread can schedule.
pub struct QContextBh {
    bh: Bh,
    registration: Arc<Registration>,
    tie: OnceLock<HandleTie>,
}

impl Pointee for QContextBh {}

impl std::fmt::Debug for QContextBh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.bh.fmt(f)
    }
}

/// A bottom half that C has, and does not delete.
struct LeftBh(*mut QContextBh);

// SAFETY: any thread may delete a bottom half.
unsafe impl Send for LeftBh {}

impl LeftBh {
    /// Its AioContext has ended, so C does not use it any more.
    fn free(self) {
        // SAFETY: `leftover`, invariant 2: it was not deleted, and this is the one call.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

/// The name of a bottom half. GLib keeps each different name for ever.
struct Interned(&'static str);

impl FromC for Interned {
    type Pointer = *const c_char;

    unsafe fn from_c(name: *const c_char, _: &'static str) -> Result<Self, Fault> {
        if name.is_null() {
            return Ok(Interned("bh"));
        }
        // SAFETY: promise 3.
        let kept = unsafe { glib_sys::g_intern_string(name) };
        // SAFETY: GLib keeps interned strings for ever.
        let kept = unsafe { CStr::from_ptr(kept) };
        Ok(Interned(kept.to_str().unwrap_or("bh")))
    }
}

/// qcontext_bh_new:
/// Creates a bottom half.
/// @aio: the AioContext it runs on
/// @name: (nullable): for diagnostics; each different name is kept for ever, so use few
/// @func: the callback
/// @user_data: its data
/// @destroy: (nullable): runs when the bottom half was deleted and its last call has returned, on the thread that drives; or when
/// @aio ends
///
/// Returns: (transfer full) (nullable): the bottom half, not scheduled; free with qcontext_bh_delete(). The end of @aio frees one
/// that was not deleted, and it must not be used any more. If a stop of a context ends @aio, it may be used and deleted until the
/// last reference to that context is given back.
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
    entry!(
        qcontext_bh_new,
        ptr::null_mut(),
        |aio: AioContext, name: Interned| {
            if func.is_none() {
                return Err(Fault::Misuse("the callback is NULL"));
            }
            let attempt = |user, registration: &Arc<Registration>| {
                let call = (func, user);
                Ok(give_bh(&aio, name.0, call, Arc::clone(registration)))
            };
            register(user_data, destroy, send_to_aio(&aio), attempt)
        }
    )
}

/// A bottom half for C, which is tied to its AioContext.
fn give_bh(
    aio: &AioContext,
    name: &'static str,
    (func, user): (QContextFunc, Arc<UserData>),
    registration: Arc<Registration>,
) -> *mut QContextBh {
    let data = Arc::downgrade(&user);
    let given = give(QContextBh {
        bh: aio.bh(name, move || user.call_counted(func)),
        registration,
        tie: OnceLock::new(),
    });
    // SAFETY: C does not have it yet.
    let bh = unsafe { &*given };
    let left = LeftBh(given);
    let left = LeftHandle::ToFree(Box::new(move || left.free()));
    let _ = bh.tie.set(HandleTie::new(aio, data, left));
    given
}

/// qcontext_bh_schedule:
/// Runs the callback once in the next iteration, however often it is scheduled before that.
/// @bh: a bottom half
///
/// Any thread, any locks held, also from a signal handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_bh_schedule(bh: *mut QContextBh) {
    entry!(qcontext_bh_schedule, (), |bh: &QContextBh| {
        bh.bh.schedule();
        Ok(())
    });
}

/// qcontext_bh_schedule_idle:
/// Runs the callback at the next iteration that has another cause, at the latest after 10 ms. It does not count as progress.
/// @bh: a bottom half
///
/// Any thread, any locks held, also from a signal handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_bh_schedule_idle(bh: *mut QContextBh) {
    entry!(qcontext_bh_schedule_idle, (), |bh: &QContextBh| {
        bh.bh.schedule_idle();
        Ok(())
    });
}

/// qcontext_bh_cancel:
/// Cancels a schedule if the callback has not begun.
/// @bh: a bottom half
///
/// Any thread, any locks held, also from a signal handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_bh_cancel(bh: *mut QContextBh) {
    entry!(qcontext_bh_cancel, (), |bh: &QContextBh| {
        bh.bh.cancel();
        Ok(())
    });
}

/// qcontext_bh_delete:
/// Deletes the bottom half, also from inside its callback. A call that has not begun does not happen; one that has begun on
/// another thread may still run. The destroy notify runs when the user data may be freed.
/// @bh: (nullable) (transfer full): a bottom half; NULL is ignored
///
/// Any thread, any locks held; never waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_bh_delete(bh: *mut QContextBh) {
    entry!(qcontext_bh_delete, (), |bh: Given<Box<QContextBh>>| {
        drop(bh);
        Ok(())
    });
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
    let closed = entry!(qcontext_bh_delete_sync, 0, error, |bh: &QContextBh| {
        bh.registration.close()?;
        Ok(1)
    });
    if closed != 0 {
        // SAFETY: the caller of this function promises the same.
        unsafe { qcontext_bh_delete(bh) };
    }
    closed
}

/// qcontext_bh_oneshot:
/// Runs a callback once in the next iteration.
/// @aio: the AioContext it runs on
/// @name: (nullable): as for qcontext_bh_new()
/// @func: the callback
/// @user_data: its data
/// @destroy: (nullable): runs after the callback, or without it when the AioContext ends first
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
    entry!(qcontext_bh_oneshot, 0, |aio: AioContext, name: Interned| {
        if func.is_none() {
            return Err(Fault::Misuse("the callback is NULL"));
        }
        register(user_data, destroy, send_to_aio(&aio), |user, _| {
            aio.schedule_oneshot(name.0, move || user.call(func));
            Ok(())
        })?;
        Ok(1)
    })
}
