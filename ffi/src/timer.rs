//! Timers, in the caller's storage or on the heap.
#![allow(unsafe_code)] // entry points

mod cell;

use crate::argument::{FromC, Out, entry};
use crate::boundary::Fault;
use crate::callback::QContextFunc;
use crate::clock;
use crate::handle::{Borrowed, QContextAio};
pub use cell::QContextTimer;
use cell::{Arming, TimerRef};
use glib_sys::{GDestroyNotify, GError, gboolean, gpointer};
use qcontext::AioContext;
use std::ptr;

/// qcontext_timer_init:
/// Initialises a timer in the caller's storage. The storage may be freed once the timer is deleted and not armed again.
/// @timer: the storage, with any content
/// @aio: the AioContext it fires on, which outlives it
/// @clock: a QContextClock
/// @scale: nanoseconds per unit of qcontext_timer_mod()
/// @func: the callback
/// @user_data: its data
///
/// Any thread, any locks held; no other call uses @timer at the same time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_timer_init(
    timer: *mut QContextTimer,
    aio: *mut QContextAio,
    clock: u32,
    scale: i64,
    func: QContextFunc,
    user_data: gpointer,
) {
    entry!(qcontext_timer_init, (), |timer: Out<QContextTimer>| {
        timer.set(unarmed(aio, clock, scale, func, user_data)?);
        Ok(())
    });
}

/// An initialised timer.
fn unarmed(
    aio: *mut QContextAio,
    number: u32,
    scale: i64,
    func: QContextFunc,
    user_data: gpointer,
) -> Result<QContextTimer, Fault> {
    if aio.is_null() {
        return Err(Fault::Misuse("the AioContext is NULL"));
    }
    if func.is_none() {
        return Err(Fault::Misuse("the callback is NULL"));
    }
    if scale < 1 {
        return Err(Fault::Misuse("the scale is not positive"));
    }
    clock::by_number(number)?;
    Ok(QContextTimer {
        node: ptr::null_mut(),
        aio,
        func,
        user_data,
        scale,
        clock: number,
        on_heap: 0,
    })
}

/// qcontext_timer_new:
/// Creates a timer on the heap.
/// @aio: the AioContext it fires on
/// @clock: a QContextClock
/// @scale: nanoseconds per unit of qcontext_timer_mod()
/// @func: the callback
/// @user_data: its data
/// @destroy: (nullable): runs when the timer was freed and its last call has returned, on the thread that drives; or when @aio ends
///
/// Returns: (transfer full) (nullable): the timer, not armed; free with qcontext_timer_free(), also after the end of @aio.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_timer_new(
    aio: *mut QContextAio,
    clock: u32,
    scale: i64,
    func: QContextFunc,
    user_data: gpointer,
    destroy: GDestroyNotify,
) -> *mut QContextTimer {
    entry!(qcontext_timer_new, ptr::null_mut(), || {
        let mut timer = Box::new(unarmed(aio, clock, scale, func, user_data)?);
        timer.on_heap = 1;
        // No other thread knows the timer yet, so no lock is needed.
        let node = TimerRef::of(&mut timer).make_locked(destroy)?;
        // SAFETY: the caller of this function has the AioContext.
        let aio = unsafe { Borrowed::<AioContext>::from_c(aio, "the AioContext is NULL") }?;
        let given = Box::into_raw(timer);
        node.tie(&aio, given.addr());
        Ok(given)
    })
}

/// qcontext_timer_free:
/// Deletes and frees a timer on the heap, also from inside its callback.
/// @timer: (nullable) (transfer full): a timer of qcontext_timer_new(); NULL is ignored
///
/// Any thread, any locks held; never waits. No other call uses @timer at the same time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_timer_free(timer: *mut QContextTimer) {
    if timer.is_null() {
        return;
    }
    let given = timer;
    entry!(qcontext_timer_free, (), |timer: TimerRef| {
        if !timer.is_on_heap() {
            return Err(Fault::Misuse(
                "the timer is not one of qcontext_timer_new()",
            ));
        }
        drop(timer.take());
        // SAFETY: promise 4: the timer was made by qcontext_timer_new() and is given back.
        drop(unsafe { Box::from_raw(given) });
        Ok(())
    });
}

/// qcontext_timer_mod:
/// Fires at a time, in place of any earlier arming. A time in the past, also a negative one, is due at once.
/// @timer: a timer
/// @expire_time: the time, in the timer's scale
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_timer_mod(timer: *mut QContextTimer, expire_time: i64) {
    entry!(qcontext_timer_mod, (), |timer: TimerRef| {
        timer.arm(timer.scaled(expire_time), Arming::Replace)
    });
}

/// qcontext_timer_mod_ns:
/// As qcontext_timer_mod(), in nanoseconds.
/// @timer: a timer
/// @expire_time: the time in nanoseconds
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_timer_mod_ns(timer: *mut QContextTimer, expire_time: i64) {
    entry!(qcontext_timer_mod_ns, (), |timer: TimerRef| {
        timer.arm(expire_time, Arming::Replace)
    });
}

/// qcontext_timer_anticipate:
/// As qcontext_timer_mod(), unless the timer is armed for an earlier time.
/// @timer: a timer
/// @expire_time: the time, in the timer's scale
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_timer_anticipate(timer: *mut QContextTimer, expire_time: i64) {
    entry!(qcontext_timer_anticipate, (), |timer: TimerRef| {
        timer.arm(timer.scaled(expire_time), Arming::Anticipate)
    });
}

/// qcontext_timer_anticipate_ns:
/// As qcontext_timer_anticipate(), in nanoseconds.
/// @timer: a timer
/// @expire_time: the time in nanoseconds
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_timer_anticipate_ns(timer: *mut QContextTimer, expire_time: i64) {
    entry!(qcontext_timer_anticipate_ns, (), |timer: TimerRef| {
        timer.arm(expire_time, Arming::Anticipate)
    });
}

/// qcontext_timer_del:
/// Does not fire any more until it is armed again. A call that has begun on another thread may still run.
/// @timer: a timer; one that is all-zero or not armed stays so
///
/// Any thread, any locks held; never waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_timer_del(timer: *mut QContextTimer) {
    entry!(qcontext_timer_del, (), |timer: TimerRef| {
        timer.delete();
        Ok(())
    });
}

/// qcontext_timer_del_sync:
/// As qcontext_timer_del(), and waits until a running call has returned. A timer on the heap never fires again, even if it
/// is armed; the only use left for it is qcontext_timer_free().
/// @timer: a timer
/// @error: WOULD_DEADLOCK inside its own callback; nothing has changed then
///
/// Returns: TRUE when no call runs or will run.
///
/// Any thread; blocks, so no lock that the callback takes may be held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_timer_del_sync(
    timer: *mut QContextTimer,
    error: *mut *mut GError,
) -> gboolean {
    entry!(qcontext_timer_del_sync, 0, error, |timer: TimerRef| {
        if let Some(node) = timer.node() {
            node.close()?;
        }
        timer.delete();
        Ok(1)
    })
}

/// qcontext_timer_pending:
/// @timer: a timer
///
/// Returns: whether it is armed and its callback has not begun.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_timer_pending(timer: *const QContextTimer) -> gboolean {
    entry!(qcontext_timer_pending, 0, |timer: TimerRef| {
        Ok(timer.node().is_some_and(|node| node.is_armed()).into())
    })
}

/// qcontext_timer_expire_time_ns:
/// @timer: a timer
///
/// Returns: the time in nanoseconds for which it is armed, -1 when it is not.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_timer_expire_time_ns(timer: *const QContextTimer) -> i64 {
    entry!(qcontext_timer_expire_time_ns, -1, |timer: TimerRef| {
        let deadline = timer.node().and_then(|node| node.deadline_ns());
        Ok(deadline.unwrap_or(-1))
    })
}
