//! A lock-free intrusive list: many threads push, one takes everything, and its owner can close it for good.
//!
//! Bottom halves queue on their AioContext with it, and AioContexts with work queue on their reactor.
//!
//! # Threads
//! `push` is wait-free but for contention, callable from any thread and from a signal handler. `take` and `close` are for
//! one thread at a time.
//!
//! # Invariants
//! 1. A node is in at most one list, and only once: a thread pushes it only after it has set its "queued" flag.
//! 2. A queued node stays allocated until it has been taken.
//! 3. The pusher writes `next` before it publishes the node. After that, only the taker writes it.
#![allow(unsafe_code)] // intrusive links are raw pointers

use crate::sync::{AtomicPtr, Ordering};
use std::ptr;

/// A node that can be queued.
///
/// # Safety
/// `link` must always return the same link of the node.
pub(crate) unsafe trait Linked: Sized {
    fn link(&self) -> &Link<Self>;
}

/// The room a node keeps for its place in a list.
pub(crate) struct Link<T: Linked>(AtomicPtr<T>);

impl<T: Linked> Link<T> {
    pub(crate) fn new() -> Self {
        Link(AtomicPtr::new(ptr::null_mut()))
    }

    fn get(&self) -> *mut T {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, next: *mut T) {
        self.0.store(next, Ordering::Relaxed);
    }
}

/// What a push met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// The list was empty: the pusher must make the owner look.
    First,
    /// An earlier pusher does so.
    Behind,
    /// The list is closed; the node was not taken.
    Closed,
}

/// The list's head.
pub(crate) struct List<T: Linked>(AtomicPtr<T>);

impl<T: Linked> List<T> {
    pub(crate) fn new() -> Self {
        List(AtomicPtr::new(ptr::null_mut()))
    }

    fn closed() -> *mut T {
        ptr::without_provenance_mut(usize::MAX)
    }

    /// Queues `node`.
    ///
    /// # Safety
    /// The caller holds the node's "queued" flag (invariant 1) and keeps it allocated (invariant 2).
    pub(crate) unsafe fn push(&self, node: *mut T) -> Pushed {
        // A pusher that finds the list closed sees what was done before that.
        let mut head = self.0.load(Ordering::Acquire);
        loop {
            if head == Self::closed() {
                return Pushed::Closed;
            }
            // SAFETY: the caller keeps the node allocated; invariant 3 makes the link ours.
            unsafe { &*node }.link().set(head);
            match self
                .0
                .compare_exchange_weak(head, node, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => {
                    return if head.is_null() {
                        Pushed::First
                    } else {
                        Pushed::Behind
                    };
                }
                Err(seen) => head = seen,
            }
        }
    }

    /// True when a `take` would find nothing.
    pub(crate) fn is_empty(&self) -> bool {
        let head = self.0.load(Ordering::Acquire);
        head.is_null() || head == Self::closed()
    }

    /// Takes everything queued, oldest first.
    pub(crate) fn take(&self) -> Taken<T> {
        if self.is_empty() {
            return Taken::empty();
        }
        let head = self.0.swap(ptr::null_mut(), Ordering::AcqRel);
        Taken::from_newest(head)
    }

    /// Takes everything queued and refuses all later pushes.
    pub(crate) fn close(&self) -> Taken<T> {
        let head = self.0.swap(Self::closed(), Ordering::AcqRel);
        if head == Self::closed() {
            Taken::empty()
        } else {
            Taken::from_newest(head)
        }
    }
}

/// Nodes taken from a list, owned by the taker, in the order in which they were pushed.
pub(crate) struct Taken<T: Linked> {
    first: *mut T,
}

// SAFETY: this value owns the nodes.
unsafe impl<T: Linked + Send> Send for Taken<T> {}

impl<T: Linked> Taken<T> {
    pub(crate) fn empty() -> Self {
        Taken {
            first: ptr::null_mut(),
        }
    }

    fn from_newest(newest: *mut T) -> Self {
        let mut taken = Taken {
            first: ptr::null_mut(),
        };
        let mut node = newest;
        while !node.is_null() {
            // SAFETY: taken nodes are allocated (invariant 2) and ours to relink (invariant 3).
            let link = unsafe { &*node }.link();
            let older = link.get();
            link.set(taken.first);
            taken.first = node;
            node = older;
        }
        taken
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    /// Removes the oldest node; null when there is none.
    pub(crate) fn pop(&mut self) -> *mut T {
        let node = self.first;
        if !node.is_null() {
            // SAFETY: a taken node is allocated until we hand it out (invariant 2).
            self.first = unsafe { &*node }.link().get();
        }
        node
    }
}

#[cfg(test)]
mod tests;
