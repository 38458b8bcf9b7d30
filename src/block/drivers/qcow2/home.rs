//! A value that stays on the thread that made it, inside of something that may move.
//!
//! Used for the futures of images, which are not `Send`: imago's traits do not promise it. A channel may go to another thread
//! with its context, but only when it is quiet, so there is no such future in it then.
//!
//! # Invariants
//! 1. The value is touched on the thread that made it only. On another thread it is neither reached nor dropped.
#![allow(unsafe_code)] // the promise that the value stays where it is

use std::mem::ManuallyDrop;
use std::thread::{self, ThreadId};

/// See the head of this file.
pub(super) struct HomeBound<T> {
    home: ThreadId,
    value: ManuallyDrop<T>,
}

// SAFETY: only the thread that made the value touches it (invariant 1).
unsafe impl<T> Send for HomeBound<T> {}

impl<T> HomeBound<T> {
    pub(super) fn new(value: T) -> HomeBound<T> {
        HomeBound {
            home: thread::current().id(),
            value: ManuallyDrop::new(value),
        }
    }

    /// The value, on its own thread.
    pub(super) fn get_mut(&mut self) -> Option<&mut T> {
        (thread::current().id() == self.home).then(|| &mut *self.value)
    }
}

impl<T> Drop for HomeBound<T> {
    /// On another thread the value is leaked.
    fn drop(&mut self) {
        if thread::current().id() == self.home {
            // SAFETY: the value is dropped here and never used again.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn a_value_is_out_of_reach_on_another_thread_and_is_leaked_there() {
        let value = Rc::new(());
        let mut bound = HomeBound::new(Rc::clone(&value));
        assert!(bound.get_mut().is_some());
        let away = thread::spawn(move || {
            assert!(bound.get_mut().is_none());
        });
        away.join().unwrap();
        assert_eq!(Rc::strong_count(&value), 2);
        drop(HomeBound::new(Rc::clone(&value)));
        assert_eq!(Rc::strong_count(&value), 2);
    }
}
