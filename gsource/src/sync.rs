//! Atomics, locks, threads and thread-locals: std's, loom's when its models run, or shuttle's when its scenarios do.
//!
//! `Arc`, `Weak` and `OnceLock` are std's everywhere: no thread waits in them. So are locks and atomics in statics, which outlive
//! the runs of a model. While such a lock is held, nothing of the model is used.
#![deny(unsafe_code)] // `Life` says why it may be shared

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};
#[cfg(loom)]
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(loom)]
pub(crate) use loom::thread;
#[cfg(shuttle)]
pub(crate) use shuttle::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};
#[cfg(shuttle)]
pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard};
#[cfg(shuttle)]
pub(crate) use shuttle::{thread, thread_local};
pub(crate) use std::sync::PoisonError;
/// Orders a thread and its signal handlers. The models have no signals.
pub(crate) use std::sync::atomic::compiler_fence;
#[cfg(not(any(loom, shuttle)))]
pub(crate) use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};
#[cfg(not(any(loom, shuttle)))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(any(loom, shuttle)))]
pub(crate) use std::{thread, thread_local};

/// Locks a mutex whose data is consistent even if a holder panicked, because no foreign code runs under it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// loom's, with a constant's syntax.
#[cfg(loom)]
macro_rules! of_loom {
    ($($(#[$about:meta])* static $name:ident: $type:ty = const $init:block);* $(;)?) => {
        $(loom::thread_local! { $(#[$about])* static $name: $type = $init })*
    };
}
#[cfg(loom)]
pub(crate) use of_loom as thread_local;

/// A field of what is freed by hand. In loom's models it finds uses that are not ordered before the end; elsewhere it is empty.
#[cfg(not(loom))]
pub(crate) struct Life;

#[cfg(not(loom))]
impl Life {
    pub(crate) fn new() -> Life {
        Life
    }

    #[inline]
    pub(crate) fn used(&self) {}
}

/// A field of what is freed by hand. In loom's models it finds uses that are not ordered before the end.
#[cfg(loom)]
pub(crate) struct Life(loom::cell::UnsafeCell<()>);

#[cfg(loom)]
#[allow(unsafe_code)]
// SAFETY: the cell holds nothing; loom only tracks the order of accesses.
unsafe impl Sync for Life {}

#[cfg(loom)]
impl Life {
    pub(crate) fn new() -> Life {
        Life(loom::cell::UnsafeCell::new(()))
    }

    pub(crate) fn used(&self) {
        self.0.with(|_| ());
    }
}

#[cfg(loom)]
impl Drop for Life {
    fn drop(&mut self) {
        self.0.with_mut(|_| ());
    }
}
