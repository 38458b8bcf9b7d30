//! A first-in-first-out queue that only the driving thread uses, with plain loads and stores.
//!
//! A signal handler may interrupt that thread at any place. It sees by the [`QueueLock`] that the queue is in the middle of a
//! change.
//!
//! # Invariants
//! 1. A node is in the queue at most once, and allocated as long as it is.
//! 2. Only the driving thread, or a signal handler on it, calls the methods, and only with the lock.
#![allow(unsafe_code)] // intrusive links are raw pointers

use crate::sync::{AtomicBool, AtomicPtr, Ordering, compiler_fence};
use std::ptr;

/// A node that can stand in the queue.
///
/// # Safety
/// `next` must always return the same field of the node, which nothing else uses.
pub(crate) unsafe trait Chained: Sized {
    fn next(&self) -> &AtomicPtr<Self>;
}

/// The queue.
pub(crate) struct HomeQueue<T: Chained> {
    first: AtomicPtr<T>,
    last: AtomicPtr<T>,
}

impl<T: Chained> HomeQueue<T> {
    pub(crate) fn new() -> Self {
        HomeQueue {
            first: AtomicPtr::new(ptr::null_mut()),
            last: AtomicPtr::new(ptr::null_mut()),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first().is_null()
    }

    fn first(&self) -> *mut T {
        self.first.load(Ordering::Relaxed)
    }

    /// Puts `node` at the end.
    ///
    /// # Safety
    /// Invariants 1 and 2 are the caller's.
    #[inline]
    pub(crate) unsafe fn push(&self, node: *mut T) {
        // SAFETY: the caller keeps the node allocated.
        unsafe { &*node }
            .next()
            .store(ptr::null_mut(), Ordering::Relaxed);
        // SAFETY: one node is a chain.
        unsafe { self.link(node, node) };
    }

    /// # Safety
    /// `first` to `last` is a chain of allocated nodes that are in no queue; invariant 2.
    unsafe fn link(&self, first: *mut T, last: *mut T) {
        let end = self.last.load(Ordering::Relaxed);
        if self.is_empty() {
            self.first.store(first, Ordering::Relaxed);
        } else {
            // SAFETY: a queued node is allocated (invariant 1).
            unsafe { &*end }.next().store(first, Ordering::Relaxed);
        }
        self.last.store(last, Ordering::Relaxed);
    }

    /// Removes the oldest node; null when there is none.
    ///
    /// # Safety
    /// Invariant 2 is the caller's.
    #[inline]
    pub(crate) unsafe fn pop(&self) -> *mut T {
        let node = self.first();
        if !node.is_null() {
            // SAFETY: a queued node is allocated (invariant 1).
            let next = unsafe { &*node }.next().load(Ordering::Relaxed);
            self.first.store(next, Ordering::Relaxed);
        }
        node
    }

    /// Puts everything of `later` behind what is here.
    ///
    /// # Safety
    /// Invariant 2 is the caller's, for both.
    pub(crate) unsafe fn append(&self, later: &HomeQueue<T>) {
        if !later.is_empty() {
            // SAFETY: all of `later` is a chain, which it gives away.
            unsafe { self.link(later.first(), later.last.load(Ordering::Relaxed)) };
            later.first.store(ptr::null_mut(), Ordering::Relaxed);
        }
    }

    /// Walks the nodes, oldest first, until `found` says so.
    ///
    /// # Safety
    /// Invariant 2 is the caller's.
    pub(crate) unsafe fn any(&self, found: impl Fn(&T) -> bool) -> bool {
        let mut node = self.first();
        // SAFETY: null or a queued node, which is allocated (invariant 1).
        while let Some(current) = unsafe { node.as_ref() } {
            if found(current) {
                return true;
            }
            node = current.next().load(Ordering::Relaxed);
        }
        false
    }

    /// Moves the nodes that `chosen` names to `other`, in their order.
    ///
    /// # Safety
    /// Invariant 2 is the caller's, for both.
    pub(crate) unsafe fn extract(&self, other: &HomeQueue<T>, chosen: impl Fn(&T) -> bool) {
        let rest = HomeQueue::new();
        loop {
            // SAFETY: the caller's promise.
            let node = unsafe { self.pop() };
            // SAFETY: null or a node that was queued until now.
            let Some(current) = (unsafe { node.as_ref() }) else {
                break;
            };
            let target = if chosen(current) { other } else { &rest };
            // SAFETY: the node was just taken out.
            unsafe { target.push(node) };
        }
        // SAFETY: the caller's promise; `rest` is local.
        unsafe { self.append(&rest) };
    }
}

/// Set while the driving thread is in the middle of a change, so that a signal handler on it makes none.
pub(crate) struct QueueLock(AtomicBool);

/// A change, until this is dropped.
pub(crate) struct QueueGuard<'a>(&'a AtomicBool);

impl QueueLock {
    pub(crate) fn new() -> Self {
        QueueLock(AtomicBool::new(false))
    }

    /// Begins a change outside of signal handlers.
    #[inline]
    pub(crate) fn begin(&self) -> QueueGuard<'_> {
        debug_assert!(!self.0.load(Ordering::Relaxed), "a change inside a change");
        self.0.store(true, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        QueueGuard(&self.0)
    }

    /// Begins a change; `None` in a signal handler that has interrupted one.
    #[inline]
    pub(crate) fn try_begin(&self) -> Option<QueueGuard<'_>> {
        if self.0.load(Ordering::Relaxed) {
            return None;
        }
        Some(self.begin())
    }
}

impl Drop for QueueGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        self.0.store(false, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
