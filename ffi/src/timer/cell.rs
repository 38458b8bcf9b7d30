//! A C timer, in the caller's storage or on the heap, and the Rust timer behind it.
//!
//! # Invariants
//! 1. `node` of a timer is NULL or an `Arc<Node>` that the timer owns. It is read and written under the lock of the timer's
//!    stripe.
//! 2. A timer in the caller's storage has a node only from arming until deletion. So storage whose timer is deleted may be
//!    freed without another call. A timer on the heap has its node from creation to the end.
#![allow(unsafe_code)] // a C structure that several threads use

use crate::argument::FromC;
use crate::boundary::Fault;
use crate::callback::QContextFunc;
use crate::clock;
use crate::handle::{Borrowed, QContextAio};
use crate::leftover::{HandleTie, LeftHandle};
use crate::user::{Registration, UserData, register, send_to_aio};
use glib_sys::{GDestroyNotify, gpointer};
use qcontext::{AioContext, Error, Timer};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

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

/// The Rust timer of a C timer, with the calls of its callback.
pub(super) struct Node {
    timer: Timer,
    registration: Arc<Registration>,
    user: Weak<UserData>,
    /// Of a timer on the heap.
    tie: OnceLock<HandleTie>,
}

impl Node {
    /// The time in nanoseconds for which it is armed.
    pub(super) fn deadline_ns(&self) -> Option<i64> {
        self.timer.deadline_ns()
    }

    pub(super) fn is_armed(&self) -> bool {
        self.timer.is_armed()
    }

    /// Ties the timer on the heap at `address` to its AioContext.
    pub(super) fn tie(&self, aio: &AioContext, address: usize) {
        let left = LeftHandle::Kept(address);
        let tie = HandleTie::new(aio, Weak::clone(&self.user), left);
        let _ = self.tie.set(tie);
    }

    /// Refuses further calls and waits for the running one.
    pub(super) fn close(&self) -> Result<(), Error> {
        self.registration.close()
    }
}

/// What arming does to an earlier arming.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arming {
    /// The new time counts.
    Replace,
    /// The earlier of both times counts.
    Anticipate,
}

/// Guards `node` of the timers whose addresses fall on it. No callback runs under it.
fn stripe(timer: NonNull<QContextTimer>) -> MutexGuard<'static, ()> {
    static STRIPES: [Mutex<()>; 16] = [const { Mutex::new(()) }; 16];
    let index = timer.addr().get() / size_of::<QContextTimer>() % STRIPES.len();
    STRIPES[index]
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// A timer of the caller's. It is not NULL and is valid during the call.
#[derive(Clone, Copy)]
pub(super) struct TimerRef(NonNull<QContextTimer>);

impl FromC for TimerRef {
    type Pointer = *const QContextTimer;

    unsafe fn from_c(timer: *const QContextTimer, null: &'static str) -> Result<Self, Fault> {
        NonNull::new(timer.cast_mut())
            .map(TimerRef)
            .ok_or(Fault::Misuse(null))
    }
}

impl TimerRef {
    pub(super) fn of(timer: &mut QContextTimer) -> TimerRef {
        TimerRef(NonNull::from(timer))
    }

    /// The node, if there is one.
    pub(super) fn node(self) -> Option<Arc<Node>> {
        let guard = stripe(self.0);
        let node = self.node_locked();
        drop(guard);
        node
    }

    fn node_locked(self) -> Option<Arc<Node>> {
        // SAFETY: the timer is valid; the lock is held.
        let raw = unsafe { (*self.0.as_ptr()).node }
            .cast::<Node>()
            .cast_const();
        if raw.is_null() {
            return None;
        }
        // SAFETY: invariant 1: the timer's own count keeps the node.
        unsafe { Arc::increment_strong_count(raw) };
        // SAFETY: the count just made.
        Some(unsafe { Arc::from_raw(raw) })
    }

    /// Takes the node out. The caller drops it without the lock.
    pub(super) fn take(self) -> Option<Arc<Node>> {
        let guard = stripe(self.0);
        let node = self.take_locked();
        drop(guard);
        node
    }

    fn take_locked(self) -> Option<Arc<Node>> {
        // SAFETY: the timer is valid.
        let place = unsafe { &raw mut (*self.0.as_ptr()).node };
        // SAFETY: as above; the lock is held.
        let raw = unsafe { ptr::replace(place, ptr::null_mut()) }
            .cast::<Node>()
            .cast_const();
        // SAFETY: invariant 1: this is the timer's own count.
        (!raw.is_null()).then(|| unsafe { Arc::from_raw(raw) })
    }

    /// Makes the node of a timer that has none.
    pub(super) fn make_locked(self, destroy: GDestroyNotify) -> Result<Arc<Node>, Fault> {
        // SAFETY: the timer is valid and initialised.
        let fields = unsafe { self.0.as_ref() };
        let (func, data) = (fields.func, fields.user_data);
        if func.is_none() {
            return Err(Fault::Misuse("the timer is not initialised"));
        }
        let clock = clock::by_number(fields.clock)?;
        // SAFETY: the caller of qcontext_timer_init() keeps the AioContext for as long as the timer.
        let aio = unsafe { Borrowed::<AioContext>::from_c(fields.aio, "the AioContext is NULL") }?;
        let node = register(data, destroy, send_to_aio(&aio), |user, registration| {
            Ok(Arc::new(Node {
                user: Arc::downgrade(&user),
                timer: aio.timer(clock, move || user.call_counted(func)),
                registration: Arc::clone(registration),
                tie: OnceLock::new(),
            }))
        })?;
        let raw = Arc::into_raw(Arc::clone(&node));
        // SAFETY: the timer is valid; the lock is held.
        unsafe { (*self.0.as_ptr()).node = raw.cast_mut().cast() };
        Ok(node)
    }

    pub(super) fn is_on_heap(self) -> bool {
        // SAFETY: the timer is valid, and the field does not change.
        unsafe { (*self.0.as_ptr()).on_heap == 1 }
    }

    /// A time in the timer's scale as nanoseconds.
    pub(super) fn scaled(self, time: i64) -> i64 {
        // SAFETY: the timer is valid, and the field does not change.
        time.saturating_mul(unsafe { (*self.0.as_ptr()).scale })
    }

    /// Arms the timer for `time` in nanoseconds. Makes the node if there is none.
    pub(super) fn arm(self, time: i64, arming: Arming) -> Result<(), Fault> {
        let guard = stripe(self.0);
        let node = match self.node_locked() {
            Some(node) => Ok(node),
            None => self.make_locked(None),
        };
        if let Ok(node) = &node {
            let armed = node.timer.deadline_ns();
            let earlier = armed.is_none_or(|armed| time.max(0) < armed);
            if arming == Arming::Replace || earlier {
                node.timer.arm_at_ns(time);
            }
        }
        drop(guard);
        node.map(drop)
    }

    /// Cancels. A timer in the caller's storage loses its node.
    pub(super) fn delete(self) {
        let guard = stripe(self.0);
        let node = if self.is_on_heap() {
            self.node_locked()
        } else {
            self.take_locked()
        };
        if let Some(node) = &node {
            node.timer.cancel();
        }
        drop(guard);
        drop(node);
    }
}
