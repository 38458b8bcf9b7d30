//! Timers, in the caller's storage or on the heap, and the clocks they run on.
//!
//! # Invariants
//! 1. `node` of a timer is NULL or an `Arc<Node>` given away; it is read and written under the lock of the timer's stripe.
//! 2. A timer in the caller's storage has a node only from arming until deletion, so storage whose timer is deleted may be
//!    freed without another call. One on the heap has its node for life.
#![allow(unsafe_code)] // pointers from C
#![allow(non_camel_case_types)] // the constants are C's

use crate::boundary::{Fault, enter, enter_fallible};
use crate::callback::QContextFunc;
use crate::handle::{self, QContextAio};
use crate::user::{Fate, register, send_to_aio};
use glib_sys::{GDestroyNotify, GError, gboolean, gpointer};
use qcontext::{Clock, Timer};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// QContextClock:
/// The time bases, all in nanoseconds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QContextClock {
    /// Monotonic time since boot.
    QCONTEXT_CLOCK_REALTIME = 0,
    /// Monotonic time that stands still while the machine is stopped.
    QCONTEXT_CLOCK_VIRTUAL = 1,
    /// The wall clock, which can jump.
    QCONTEXT_CLOCK_HOST = 2,
    /// Monotonic time, for those who drive virtual time.
    QCONTEXT_CLOCK_VIRTUAL_RT = 3,
}

fn clock(number: u32) -> Result<Clock, Fault> {
    match number {
        0 => Ok(Clock::Realtime),
        1 => Ok(Clock::Virtual),
        2 => Ok(Clock::Host),
        3 => Ok(Clock::VirtualRt),
        _ => Err(Fault::Misuse("there is no such clock")),
    }
}

/// QContextTimer:
/// A one-shot timer. The fields are private; an all-zero timer is one that is not armed.
#[repr(C)]
#[derive(Debug)]
pub struct QContextTimer {
    /// Private.
    pub node: gpointer,
    /// Private.
    pub aio: *mut QContextAio,
    /// Private.
    pub func: QContextFunc,
    /// Private.
    pub user_data: gpointer,
    /// Private.
    pub scale: i64,
    /// Private.
    pub clock: u32,
    /// Private.
    pub on_heap: u32,
}

struct Node {
    timer: Timer,
    fate: Arc<Fate>,
}

/// Guards `node` of the timers whose addresses fall on it. No callback runs under it.
fn stripe(timer: *const QContextTimer) -> MutexGuard<'static, ()> {
    static STRIPES: [Mutex<()>; 16] = [const { Mutex::new(()) }; 16];
    let index = timer.addr() / size_of::<QContextTimer>() % STRIPES.len();
    STRIPES[index]
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// What to do with the node under the lock.
type Change<T> = fn(&Arc<Node>, T);

/// A timer of the caller's, checked.
#[derive(Clone, Copy)]
struct Place(*mut QContextTimer);

impl Place {
    /// # Safety
    /// `timer` is NULL or a timer of the caller's.
    unsafe fn new(timer: *const QContextTimer) -> Result<Place, Fault> {
        if timer.is_null() {
            return Err(Fault::Misuse("the timer is NULL"));
        }
        Ok(Place(timer.cast_mut()))
    }

    /// The node; under the lock.
    fn node(self) -> Option<Arc<Node>> {
        // SAFETY: the timer was checked.
        let raw = unsafe { (*self.0).node }.cast::<Node>().cast_const();
        if raw.is_null() {
            return None;
        }
        // SAFETY: invariant 1: the count that the timer holds keeps the node.
        unsafe { Arc::increment_strong_count(raw) };
        // SAFETY: the count just made.
        Some(unsafe { Arc::from_raw(raw) })
    }

    /// Takes the node out; under the lock, to be dropped without it.
    fn take(self) -> Option<Arc<Node>> {
        // SAFETY: the timer was checked.
        let place = unsafe { &raw mut (*self.0).node };
        // SAFETY: as above; the lock is held.
        let raw = unsafe { ptr::replace(place, ptr::null_mut()) }
            .cast::<Node>()
            .cast_const();
        // SAFETY: invariant 1: the timer's own count.
        (!raw.is_null()).then(|| unsafe { Arc::from_raw(raw) })
    }

    /// Makes the node of a timer that has none; under the lock.
    fn make(self, destroy: GDestroyNotify) -> Result<Arc<Node>, Fault> {
        // SAFETY: the timer was checked, and initialised by the caller.
        let set = unsafe { &*self.0 };
        let (aio, func, data, number) = (set.aio, set.func, set.user_data, set.clock);
        if func.is_none() {
            return Err(Fault::Misuse("the timer is not initialised"));
        }
        let clock = clock(number)?;
        // SAFETY: the caller's AioContext.
        let aio = unsafe { handle::borrowed_aio(aio) }?;
        let node = register(data, destroy, send_to_aio(&aio), |user, fate| {
            let timer = aio.timer(clock, move || user.call_counted(func));
            Ok(Arc::new(Node {
                timer,
                fate: Arc::clone(fate),
            }))
        })?;
        let raw = Arc::into_raw(Arc::clone(&node));
        // SAFETY: the timer was checked; the lock is held.
        unsafe { (*self.0).node = raw.cast_mut().cast() };
        Ok(node)
    }

    fn is_on_heap(self) -> bool {
        // SAFETY: the timer was checked.
        unsafe { (*self.0).on_heap == 1 }
    }

    fn scaled(self, time: i64) -> i64 {
        // SAFETY: the timer was checked.
        time.saturating_mul(unsafe { (*self.0).scale })
    }

    /// Does `change` to the node under the lock, which is made if there is none.
    fn change<T>(self, value: T, change: Change<T>) -> Result<(), Fault> {
        let guard = stripe(self.0);
        let node = match self.node() {
            Some(node) => Ok(node),
            None => self.make(None),
        };
        let changed = node.as_ref().map(|node| change(node, value)).is_ok();
        drop(guard);
        if changed { Ok(()) } else { node.map(drop) }
    }

    /// Cancels; what is left of a timer in the caller's storage goes.
    fn delete(self) {
        let guard = stripe(self.0);
        let node = if self.is_on_heap() {
            self.node()
        } else {
            self.take()
        };
        if let Some(node) = &node {
            node.timer.cancel();
        }
        drop(guard);
        drop(node);
    }
}

/// qcontext_timer_init:
/// Initialises a timer in the caller's storage. Once deleted and not armed again, the storage may be freed.
/// @timer: the storage, whatever is in it
/// @aio: the AioContext it fires on, which outlives it
/// @clock: a QContextClock
/// @scale: nanoseconds per unit of qcontext_timer_mod()
/// @func: the callback
/// @user_data: its data
///
/// Any thread, any locks held; nobody else uses @timer meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_timer_init(
    timer: *mut QContextTimer,
    aio: *mut QContextAio,
    clock: u32,
    scale: i64,
    func: QContextFunc,
    user_data: gpointer,
) {
    enter("qcontext_timer_init", (), || {
        // SAFETY: the caller's storage.
        let place = unsafe { Place::new(timer) }?;
        let fresh = fresh(aio, clock, scale, func, user_data)?;
        // SAFETY: the storage may be uninitialised, so it is not read.
        unsafe { ptr::write(place.0, fresh) };
        Ok(())
    });
}

fn fresh(
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
    clock(number)?;
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
/// @destroy: (nullable): runs when the timer was freed and its last call has returned, on the thread that drives
///
/// Returns: (transfer full) (nullable): the timer, not armed; free with qcontext_timer_free().
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
    enter("qcontext_timer_new", ptr::null_mut(), || {
        let mut timer = Box::new(fresh(aio, clock, scale, func, user_data)?);
        timer.on_heap = 1;
        let place = Place(&raw mut *timer);
        drop(place.make(destroy)?);
        Ok(Box::into_raw(timer))
    })
}

/// qcontext_timer_free:
/// Deletes and frees a timer on the heap, also from inside its callback.
/// @timer: (nullable) (transfer full): a timer of qcontext_timer_new(); NULL is ignored
///
/// Any thread, any locks held; never waits. Nobody else uses @timer meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_timer_free(timer: *mut QContextTimer) {
    if timer.is_null() {
        return;
    }
    enter("qcontext_timer_free", (), || {
        // SAFETY: the caller's timer.
        let place = unsafe { Place::new(timer) }?;
        if !place.is_on_heap() {
            return Err(Fault::Misuse(
                "the timer is not one of qcontext_timer_new()",
            ));
        }
        let guard = stripe(timer);
        let node = place.take();
        drop(guard);
        drop(node);
        // SAFETY: the timer that the caller gives back.
        drop(unsafe { Box::from_raw(timer) });
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
    enter("qcontext_timer_mod", (), || {
        // SAFETY: the caller's timer.
        let place = unsafe { Place::new(timer) }?;
        place.change(place.scaled(expire_time), arm)
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
    enter("qcontext_timer_mod_ns", (), || {
        // SAFETY: the caller's timer.
        unsafe { Place::new(timer) }?.change(expire_time, arm)
    });
}

/// qcontext_timer_anticipate:
/// As qcontext_timer_mod(), unless the timer fires before that anyway.
/// @timer: a timer
/// @expire_time: the time, in the timer's scale
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_timer_anticipate(timer: *mut QContextTimer, expire_time: i64) {
    enter("qcontext_timer_anticipate", (), || {
        // SAFETY: the caller's timer.
        let place = unsafe { Place::new(timer) }?;
        place.change(place.scaled(expire_time), anticipate)
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
    enter("qcontext_timer_anticipate_ns", (), || {
        // SAFETY: the caller's timer.
        unsafe { Place::new(timer) }?.change(expire_time, anticipate)
    });
}

fn arm(node: &Arc<Node>, time: i64) {
    node.timer.arm_at_ns(time);
}

fn anticipate(node: &Arc<Node>, time: i64) {
    if node
        .timer
        .deadline_ns()
        .is_none_or(|armed| time.max(0) < armed)
    {
        arm(node, time);
    }
}

/// qcontext_timer_del:
/// Fires no more until armed again. A call that has begun on another thread may still run.
/// @timer: a timer; one that is all-zero or not armed stays so
///
/// Any thread, any locks held; never waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_timer_del(timer: *mut QContextTimer) {
    enter("qcontext_timer_del", (), || {
        // SAFETY: the caller's timer.
        unsafe { Place::new(timer) }?.delete();
        Ok(())
    });
}

/// qcontext_timer_del_sync:
/// As qcontext_timer_del(), and waits until a running call has returned. A timer on the heap does not fire again, however it is
/// armed, and is only good to be freed.
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
    let body = || {
        // SAFETY: the caller's timer.
        let place = unsafe { Place::new(timer) }?;
        let guard = stripe(timer);
        let node = place.node();
        drop(guard);
        if let Some(node) = node {
            node.fate.close()?;
        }
        place.delete();
        Ok(1)
    };
    // SAFETY: the caller's place for an error.
    unsafe { enter_fallible("qcontext_timer_del_sync", 0, error, body) }
}

/// qcontext_timer_pending:
/// @timer: a timer
///
/// Returns: whether it is armed and its callback has not begun.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_timer_pending(timer: *const QContextTimer) -> gboolean {
    enter("qcontext_timer_pending", 0, || {
        // SAFETY: the caller's timer.
        let place = unsafe { Place::new(timer) }?;
        let guard = stripe(timer);
        let node = place.node();
        drop(guard);
        Ok(node.is_some_and(|node| node.timer.is_armed()).into())
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
    enter("qcontext_timer_expire_time_ns", -1, || {
        // SAFETY: the caller's timer.
        let place = unsafe { Place::new(timer) }?;
        let guard = stripe(timer);
        let node = place.node();
        drop(guard);
        Ok(node.and_then(|node| node.timer.deadline_ns()).unwrap_or(-1))
    })
}

/// qcontext_clock_get_ns:
/// @clock: a QContextClock
///
/// Returns: the time now.
///
/// Any thread, any locks held, also from a signal handler.
#[unsafe(no_mangle)]
pub extern "C" fn qcontext_clock_get_ns(clock: u32) -> i64 {
    enter("qcontext_clock_get_ns", 0, || {
        Ok(self::clock(clock)?.now_ns())
    })
}

/// qcontext_clock_enable:
/// Lets the virtual clock run, or stand still; its timers neither fire nor bound a wait then. The other clocks always run.
/// @clock: QCONTEXT_CLOCK_VIRTUAL
/// @enabled: whether it runs
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub extern "C" fn qcontext_clock_enable(clock: u32, enabled: gboolean) {
    enter("qcontext_clock_enable", (), || {
        if self::clock(clock)? != Clock::Virtual {
            return Err(Fault::Misuse("only the virtual clock can be stopped"));
        }
        if enabled != 0 {
            qcontext::start_virtual_clock();
        } else {
            qcontext::stop_virtual_clock();
        }
        Ok(())
    });
}
