//! The right to drive a reactor: one thread at a time has it.
#![forbid(unsafe_code)]

use super::{Reactor, bhs};
use crate::sync::Ordering;
use crate::{Error, ErrorKind, Result};
use std::fmt;
use std::marker::PhantomData;

/// The right to drive a reactor, held by at most one thread, until the last of its tokens is dropped.
pub struct Driving<'a> {
    reactor: &'a Reactor,
    /// The token belongs to its thread.
    thread: PhantomData<*mut ()>,
}

impl Driving<'_> {
    /// # Panics
    /// The token is another reactor's, so the caller has no right to this one.
    #[inline]
    pub(super) fn check(&self, reactor: &Reactor) {
        assert!(
            std::ptr::eq(self.reactor, reactor),
            "the token of another reactor"
        );
    }
}

impl Drop for Driving<'_> {
    fn drop(&mut self) {
        let left = self.reactor.tokens.load(Ordering::Relaxed) - 1;
        self.reactor.tokens.store(left, Ordering::Relaxed);
        if left == 0 {
            bhs::leave(self.reactor);
            self.reactor.driver.store(0, Ordering::SeqCst);
            // Another thread may have retired something after the last look here, and found us driving.
            if self.reactor.has_retired() {
                self.reactor.leave_to_home();
            }
            let missed = &self.reactor.missed;
            if missed.load(Ordering::SeqCst) && missed.swap(false, Ordering::SeqCst) {
                self.reactor.wake();
            }
        }
    }
}

impl fmt::Debug for Driving<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driving").finish_non_exhaustive()
    }
}
impl Reactor {
    /// Claims the reactor for the calling thread until the token is dropped.
    ///
    /// # Errors
    /// `WrongThread` while another thread drives it, or has tasks on it.
    pub fn drive(&self) -> Result<Driving<'_>> {
        let me = thread_token();
        if self.driver.load(Ordering::Relaxed) != me && !self.claim(me) {
            let message = "another thread drives this context, only that one may iterate it";
            return Err(Error::new(ErrorKind::WrongThread, message));
        }
        bhs::enter(self);
        let tokens = self.tokens.load(Ordering::Relaxed);
        self.tokens.store(tokens + 1, Ordering::Relaxed);
        Ok(Driving {
            reactor: self,
            thread: PhantomData,
        })
    }

    /// Makes `me` the driver, if nobody else is and no task belongs to another thread.
    fn claim(&self, me: usize) -> bool {
        if self.residents.are_elsewhere(me)
            || self
                .driver
                .compare_exchange(0, me, Ordering::SeqCst, Ordering::SeqCst)
                .is_err()
        {
            return false;
        }
        // The last driver may have spawned a task after the first look.
        let is_mine = !self.residents.are_elsewhere(me);
        if !is_mine {
            self.driver.store(0, Ordering::SeqCst);
        }
        is_mine
    }

    /// As [`Reactor::drive`], for a GLib loop that will sleep if it cannot: who drives now wakes it afterwards.
    pub(crate) fn drive_or_be_woken(&self) -> Result<Driving<'_>> {
        self.drive().or_else(|_| {
            self.missed.store(true, Ordering::SeqCst);
            // Who drove may have ended before that.
            self.drive()
        })
    }

    /// True on the thread that drives this reactor.
    pub fn is_driven_here(&self) -> bool {
        self.driver.load(Ordering::Acquire) == thread_token()
    }
}

/// A number that names the calling thread while it lives.
pub(crate) fn thread_token() -> usize {
    crate::sync::thread_local!(static TOKEN: u8 = const { 0 });
    TOKEN.with(|token| std::ptr::from_ref(token).addr())
}
