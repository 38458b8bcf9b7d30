//! Handles that C has not given back when their AioContext ends.
//!
//! Their user data is given back then. A bottom half is freed, as in QEMU. If it was a stop that ended the AioContext, it is freed
//! with the context's last reference, and the program may still delete it until then. A timer stays valid, because the program
//! frees it in any case; it is noted here, so that one which is never freed is not lost to a leak checker.
//!
//! # Invariants
//! 1. A handle is [`LEFT`] if and only if its number has been in [`LEFT_HANDLES`]. Both change under that lock.
//! 2. The closure that frees a handle runs once: for the one who takes its number out of [`LEFT_HANDLES`].
#![forbid(unsafe_code)]

use crate::user::UserData;
use qcontext::{AioContext, QContext, Tie};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// What becomes of a handle whose AioContext ends.
pub(crate) enum LeftHandle {
    /// This frees it.
    ToFree(Box<dyn FnOnce() + Send>),
    /// The program frees what is at this address.
    Kept(#[expect(dead_code, reason = "for leak checkers")] usize),
}

/// The handles whose AioContexts have ended, by number.
static LEFT_HANDLES: Mutex<BTreeMap<u64, LeftHandle>> = Mutex::new(BTreeMap::new());

/// The AioContext has not ended, and the handle is not deleted.
const TIED: u8 = 0;
/// The AioContext has ended.
const LEFT: u8 = 1;
/// The program deletes the handle.
const DELETED: u8 = 2;

fn left_handles() -> MutexGuard<'static, BTreeMap<u64, LeftHandle>> {
    LEFT_HANDLES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ties a handle of C to its AioContext until it is deleted.
#[derive(Debug)]
pub(crate) struct HandleTie {
    tie: Option<Tie>,
    number: u64,
    state: Arc<AtomicU8>,
}

impl HandleTie {
    /// For a handle whose callback owns `user`.
    pub(crate) fn new(aio: &AioContext, user: Weak<UserData>, left: LeftHandle) -> HandleTie {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let state = Arc::new(AtomicU8::new(TIED));
        let seen = Arc::clone(&state);
        let give_up = move || {
            leave(number, &seen, left);
            if let Some(user) = user.upgrade() {
                user.give_up();
            }
            // Not before: the destroy notify may delete the handle.
            QContext::call_after_stop(Box::new(move || free_left(number)));
        };
        HandleTie {
            tie: Some(aio.tie(give_up)),
            number,
            state,
        }
    }
}

/// The AioContext of a handle ends.
fn leave(number: u64, state: &AtomicU8, handle: LeftHandle) {
    let mut left = left_handles();
    let ended = state.compare_exchange(TIED, LEFT, Ordering::AcqRel, Ordering::Acquire);
    if ended.is_ok() {
        left.insert(number, handle);
    }
}

/// Frees a handle, unless the program has deleted it, or does so later.
fn free_left(number: u64) {
    let mut left = left_handles();
    let is_ours = matches!(left.get(&number), Some(LeftHandle::ToFree(_)));
    let taken = is_ours.then(|| left.remove(&number)).flatten();
    drop(left);
    if let Some(LeftHandle::ToFree(free)) = taken {
        free();
    }
}

impl Drop for HandleTie {
    /// The handle is deleted.
    fn drop(&mut self) {
        drop(self.tie.take());
        if self.state.swap(DELETED, Ordering::AcqRel) == LEFT {
            let noted = left_handles().remove(&self.number);
            drop(noted);
        }
    }
}
