//! All reactors of the process: to wake them when the virtual clock changes, and to leave them to the parent in a child process.
//!
//! The list is std's also in the models, which make theirs anew in each run and do not fork.
#![deny(unsafe_code)] // fork.rs says what the handlers of a fork may do

use super::Reactor;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

type AllReactors = MutexGuard<'static, Vec<Weak<Reactor>>>;

static REACTORS: Mutex<Vec<Weak<Reactor>>> = Mutex::new(Vec::new());

fn lock() -> AllReactors {
    REACTORS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers a reactor.
pub(super) fn announce(reactor: &Arc<Reactor>) {
    #[cfg(not(any(loom, shuttle)))]
    forks::watch();
    let mut reactors = lock();
    if reactors.len() == reactors.capacity() {
        reactors.retain(|known| known.strong_count() > 0);
    }
    reactors.push(Arc::downgrade(reactor));
}

/// All reactors that are alive. Collected, because dropping the last reference to one runs destructors of callbacks.
pub(super) fn alive() -> Vec<Arc<Reactor>> {
    lock().iter().filter_map(Weak::upgrade).collect()
}

#[cfg(not(any(loom, shuttle)))]
mod forks {
    use super::AllReactors;
    use crate::fork::{self, BetweenHandlers};
    use crate::reactor::bh_queue;
    use std::sync::Weak;

    static LOCKED: BetweenHandlers<AllReactors> = BetweenHandlers::new();

    pub(super) fn watch() {
        fork::watch(fork::Handlers {
            prepare: || LOCKED.put(super::lock()),
            parent: || drop(LOCKED.take()),
            child: leave_to_parent,
        });
    }

    fn leave_to_parent() {
        bh_queue::leave_all();
        let locked = LOCKED.take();
        let known = locked.iter().flat_map(|list| list.iter());
        known
            .filter_map(Weak::upgrade)
            .for_each(|reactor| reactor.leave_to_parent());
        drop(locked);
    }
}
