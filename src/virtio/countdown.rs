//! Calls something back when several things have happened, each once and in any order, on whatever thread is last.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What is called once.
type CountdownCallback = Box<dyn FnOnce() + Send>;

/// See the head of this file.
pub(crate) struct Countdown {
    left: AtomicUsize,
    done: Mutex<Option<CountdownCallback>>,
}

impl Countdown {
    /// Calls `done` when `count` parts have been called; at once if there are none.
    pub(crate) fn new(count: usize, done: CountdownCallback) -> Arc<Countdown> {
        let countdown = Arc::new(Countdown {
            left: AtomicUsize::new(count.max(1)),
            done: Mutex::new(Some(done)),
        });
        if count == 0 {
            countdown.one_less();
        }
        countdown
    }

    /// One of the things to happen.
    pub(crate) fn part(self: &Arc<Self>) -> CountdownCallback {
        let countdown = Arc::clone(self);
        Box::new(move || countdown.one_less())
    }

    fn one_less(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let done = self
                .done
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            done.into_iter().for_each(|done| done());
        }
    }
}
