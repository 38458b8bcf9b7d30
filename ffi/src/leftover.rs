//! Handles that C has not given back when their AioContext ends.
//!
//! Their user data is given back then. The handle itself stays valid, because the program may still use and delete it. It is noted
//! here, so that one which is never deleted is not lost to a leak checker.
#![forbid(unsafe_code)]

use crate::user::UserData;
use qcontext::{AioContext, Tie};
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

/// The addresses of the handles whose AioContexts have ended.
static LEFT: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());

fn left() -> MutexGuard<'static, BTreeSet<usize>> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ties a handle of C to its AioContext until it is deleted.
#[derive(Debug)]
pub(crate) struct HandleTie {
    tie: Option<Tie>,
    address: usize,
}

impl HandleTie {
    /// For the handle at `address`, whose callback owns `user`.
    pub(crate) fn new(aio: &AioContext, address: usize, user: Weak<UserData>) -> HandleTie {
        let give_up = move || {
            left().insert(address);
            if let Some(user) = user.upgrade() {
                user.give_up();
            }
        };
        HandleTie {
            tie: Some(aio.tie(give_up)),
            address,
        }
    }
}

impl Drop for HandleTie {
    /// The handle is deleted.
    fn drop(&mut self) {
        drop(self.tie.take());
        left().remove(&self.address);
    }
}
