//! State that only the driving thread of a reactor may touch.
//!
//! # Invariants
//! 1. The value is reached only with a [`Driving`] token of the reactor its owner is on, which exists on at most one thread.
#![allow(unsafe_code)] // makes thread-confined state shareable

use crate::reactor::Driving;
use std::cell::{RefCell, RefMut};

/// A `RefCell` guarded by the right to drive.
pub(crate) struct HomeCell<T>(RefCell<T>);

// SAFETY: invariant 1 confines every access to one thread at a time; the value may move between them.
unsafe impl<T: Send> Sync for HomeCell<T> {}

impl<T> HomeCell<T> {
    pub(crate) fn new(value: T) -> Self {
        HomeCell(RefCell::new(value))
    }

    /// The value, for as long as no callback runs.
    pub(crate) fn get<'a>(&'a self, _driving: &'a Driving<'_>) -> RefMut<'a, T> {
        self.0.borrow_mut()
    }
}
