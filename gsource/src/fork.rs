//! fork(2): the child has copies of the parent's reactors, but shares their epoll sets, rings and eventfds. A change that it made
//! there would be one in the parent, and a wait there would take the parent's events. So what was made before a fork belongs to
//! the parent: no thread of the child can drive it or change its sets. What the child makes is its own.
//!
//! # Threads
//! The handlers of pthread_atfork(3) run on the thread that forks.
//!
//! # Invariants
//! 1. A [`BetweenHandlers`] holds the guard of a lock, so one thread at a time uses it: the one that has put the guard in.
#![cfg_attr(any(loom, shuttle), allow(dead_code))] // the models do not fork
#![allow(unsafe_code)] // pthread_atfork(3), and a guard that two of its handlers share

use std::cell::UnsafeCell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Why the child may not use what the parent has made.
pub(crate) const OF_THE_PARENT: &str =
    "it was made before fork() and belongs to the parent process";

/// How many forks lie between the first process and this one.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// The generation of this process. In a child it differs from what the parent has kept.
#[inline]
pub(crate) fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// What is called before each fork, and after it.
pub(crate) struct Handlers {
    pub(crate) prepare: fn(),
    pub(crate) parent: fn(),
    pub(crate) child: fn(),
}

static HANDLERS: OnceLock<Handlers> = OnceLock::new();

/// Calls these handlers from now on; the first call counts.
pub(crate) fn watch(handlers: Handlers) {
    let mut is_first = false;
    HANDLERS.get_or_init(|| {
        is_first = true;
        handlers
    });
    if is_first {
        // SAFETY: the handlers are functions of this library.
        unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
    }
}

unsafe extern "C" fn prepare() {
    if let Some(handlers) = HANDLERS.get() {
        (handlers.prepare)();
    }
}

unsafe extern "C" fn parent() {
    if let Some(handlers) = HANDLERS.get() {
        (handlers.parent)();
    }
}

unsafe extern "C" fn child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    if let Some(handlers) = HANDLERS.get() {
        (handlers.child)();
    }
}

/// The guard of a lock, from the handler before a fork to the one after it.
pub(crate) struct BetweenHandlers<T>(UnsafeCell<Option<T>>);

// SAFETY: invariant 1.
unsafe impl<T> Sync for BetweenHandlers<T> {}

impl<T> BetweenHandlers<T> {
    pub(crate) const fn new() -> Self {
        BetweenHandlers(UnsafeCell::new(None))
    }

    /// Keeps `guard`, which the calling thread has just got.
    pub(crate) fn put(&self, guard: T) {
        // SAFETY: invariant 1: the calling thread has the lock.
        unsafe { *self.0.get() = Some(guard) };
    }

    /// The guard, for the handler after the fork.
    pub(crate) fn take(&self) -> Option<T> {
        // SAFETY: invariant 1: the calling thread has the lock since `prepare`.
        unsafe { (*self.0.get()).take() }
    }
}
