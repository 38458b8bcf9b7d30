//! A value that any thread sets once, and that one task waits for.
#![forbid(unsafe_code)]

use crate::sync::Mutex;
use crate::sync::lock;
use std::fmt;
use std::task::{Context, Poll, Waker};

/// See the module.
pub(super) struct Promise<T>(Mutex<PromiseSlot<T>>);

struct PromiseSlot<T> {
    value: Option<T>,
    is_set: bool,
    waker: Option<Waker>,
}

impl<T> Promise<T> {
    pub(super) fn new() -> Self {
        Promise(Mutex::new(PromiseSlot {
            value: None,
            is_set: false,
            waker: None,
        }))
    }

    /// Sets the value, if none was set before.
    pub(super) fn set(&self, value: T) {
        let mut slot = lock(&self.0);
        let late = if slot.is_set {
            Some(value)
        } else {
            slot.value = Some(value);
            slot.is_set = true;
            None
        };
        let waker = slot.waker.take();
        drop(slot);
        drop(late);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn is_set(&self) -> bool {
        lock(&self.0).is_set
    }

    /// The value, once.
    pub(super) fn take(&self) -> Option<T> {
        lock(&self.0).value.take()
    }

    /// The value, once; until then the task of `context` is woken when it is there.
    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<T> {
        let waker = context.waker().clone();
        let mut slot = lock(&self.0);
        let value = slot.value.take();
        let old = slot.waker.replace(waker);
        drop(slot);
        drop(old);
        value.map_or(Poll::Pending, Poll::Ready)
    }
}

impl<T> fmt::Debug for Promise<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Promise")
            .field("set", &self.is_set())
            .finish_non_exhaustive()
    }
}
