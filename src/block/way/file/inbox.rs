//! What comes for a channel while it is not locked, until it is taken.
#![forbid(unsafe_code)]

use std::fmt;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A list that others fill and the channel empties.
pub(super) struct Inbox<T>(Mutex<Vec<T>>);

impl<T> Inbox<T> {
    /// Swaps the list with an empty one, so that both keep their memory.
    pub(super) fn take(&self, empty: &mut Vec<T>) {
        mem::swap(&mut *lock(&self.0), empty);
    }

    pub(super) fn put(&self, one: T) {
        lock(&self.0).push(one);
    }
}

impl<T: Clone> Inbox<T> {
    pub(super) fn put_all(&self, many: &[T]) {
        lock(&self.0).extend_from_slice(many);
    }
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Inbox(Mutex::default())
    }
}

impl<T> fmt::Debug for Inbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inbox({})", lock(&self.0).len())
    }
}

/// The lists stay consistent even if a thread panicked between two of their operations.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
