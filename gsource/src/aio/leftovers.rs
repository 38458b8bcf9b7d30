//! User data of C handles that are left when their AioContext ends.
//!
//! A bottom half or a timer of C is a pointer that the program gives back. If it does not, its user data is given back when the
//! AioContext ends.
//!
//! # Threads
//! Handles are tied and untied on any thread. They are given up on the home, where no callback of the AioContext runs then.
//!
//! # Invariants
//! 1. The closures run and are dropped without the lock.
#![forbid(unsafe_code)]

use super::Core;
use crate::AioContext;
use crate::panic_boundary::guard;
use crate::sync::{Mutex, lock};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};

/// The handles that are tied to an AioContext.
#[derive(Default)]
pub(crate) struct Leftovers(Mutex<TiedHandles>);

#[derive(Default)]
struct TiedHandles {
    next: u64,
    /// What gives the user data of each back.
    live: BTreeMap<u64, Box<dyn FnOnce() + Send>>,
}

/// Ties a handle of C to its AioContext until this is dropped.
#[doc(hidden)] // for the C ABI
pub struct Tie {
    core: Weak<Core>,
    number: u64,
}

impl AioContext {
    /// Lets `give_up` run when this AioContext ends, unless the answer is dropped before.
    #[doc(hidden)] // for the C ABI
    pub fn tie(&self, give_up: impl FnOnce() + Send + 'static) -> Tie {
        let mut handles = lock(&self.core().leftovers.0);
        let number = handles.next;
        handles.next += 1;
        handles.live.insert(number, Box::new(give_up));
        drop(handles);
        let core = Arc::downgrade(self.core());
        Tie { core, number }
    }
}

impl Drop for Tie {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            let untied = lock(&core.leftovers.0).live.remove(&self.number);
            drop(untied);
        }
    }
}

impl fmt::Debug for Tie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tie").field(&self.number).finish()
    }
}

impl Leftovers {
    /// The AioContext ends: gives the user data of all handles back.
    pub(super) fn give_up(&self) {
        let left = std::mem::take(&mut lock(&self.0).live);
        for give_up in left.into_values() {
            let _ = guard(&"destroy notify", give_up);
        }
    }
}
