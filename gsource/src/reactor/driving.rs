//! The right to drive a reactor: one thread at a time has it.
#![forbid(unsafe_code)]

use super::{Reactor, bh_queue};
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
        if self.is_last() {
            let reactor = self.reactor;
            let awaited = reactor.is_glib_waiting();
            if awaited {
                // The ring must not take the events that GLib waits for.
                reactor.give_way(self);
            }
            reactor.give_back();
            reactor.wake_glib(awaited);
        }
    }
}

impl Driving<'_> {
    /// Counts this token out; true when no other one is left.
    fn is_last(&self) -> bool {
        let left = self.reactor.tokens.load(Ordering::Relaxed) - 1;
        self.reactor.tokens.store(left, Ordering::Relaxed);
        left == 0
    }

    /// Gives the right back at the end of a prepare that found nothing ready: until the source's check, GLib sleeps without it.
    /// A home that asks GLib itself does the waiting.
    pub(crate) fn leave_to_glib(self) {
        let reactor = self.reactor;
        if reactor.home.get(&self).served {
            return;
        }
        let other = reactor.glib_waiter.swap(thread_token(), Ordering::SeqCst);
        let is_last = self.is_last();
        std::mem::forget(self);
        if is_last {
            reactor.give_back();
        }
        if other != 0 && other != thread_token() {
            // A second GMainContext has a source of this reactor, and was refused.
            reactor.wake();
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
        bh_queue::enter(self);
        let tokens = self.tokens.load(Ordering::Relaxed);
        self.tokens.store(tokens + 1, Ordering::Relaxed);
        Ok(Driving {
            reactor: self,
            thread: PhantomData,
        })
    }

    /// Makes `me` the driver, if nobody else is and no task belongs to another thread.
    fn claim(&self, me: usize) -> bool {
        if self.thread_pin.are_elsewhere(me)
            || self
                .driver
                .compare_exchange(0, me, Ordering::SeqCst, Ordering::SeqCst)
                .is_err()
        {
            return false;
        }
        // The last driver may have spawned a task after the first look.
        let is_mine = !self.thread_pin.are_elsewhere(me);
        if !is_mine {
            self.driver.store(0, Ordering::SeqCst);
        }
        is_mine
    }

    /// Ends the calling thread's right to drive.
    fn give_back(&self) {
        bh_queue::leave(self);
        self.driver.store(0, Ordering::SeqCst);
        // Another thread may have retired something after the last look here, and found us driving.
        if self.has_retired() {
            self.leave_to_home();
        }
    }

    /// As [`Reactor::drive`], for the source's prepare. If that is refused, GLib sleeps all the same, and the thread that drives
    /// now wakes it when it leaves.
    pub(crate) fn drive_or_be_woken(&self) -> Result<Driving<'_>> {
        self.drive().or_else(|_| {
            self.glib_waiter.store(thread_token(), Ordering::SeqCst);
            // The other thread may have left before that.
            self.drive()
        })
    }

    /// True when GLib may be asleep between the source's prepare and check, without the right to drive.
    #[inline]
    pub(super) fn is_glib_waiting(&self) -> bool {
        self.glib_waiter.load(Ordering::SeqCst) != 0
    }

    /// GLib has waited, or its source is gone, or the thread that iterates it waits by itself.
    pub(crate) fn end_glib_wait(&self) {
        if self.is_glib_waiting() {
            self.glib_waiter.store(0, Ordering::SeqCst);
        }
    }

    /// Wakes GLib when it waits, after another thread has driven: that one may have ended the announced sleep, and taken a
    /// wake-up, a timer's event or a deadline that GLib was to see. GLib prepares anew then. `gave_way` says that the ring
    /// does not take events meanwhile.
    fn wake_glib(&self, gave_way: bool) {
        if !self.is_glib_waiting() {
            return;
        }
        if gave_way {
            self.wake();
        } else {
            // GLib has begun to wait just now. If another thread drives by now, that one wakes GLib.
            drop(self.drive());
        }
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

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use crate::Reactor;

    /// A home without this would look twice and wake itself in each turn that asks GLib.
    #[test]
    fn glib_waits_between_its_own_steps_only() {
        let reactor = Reactor::new().unwrap();
        let (gmain, source) = (glib::MainContext::new(), reactor.g_source().unwrap());
        source.attach(Some(&gmain));
        while gmain.iteration(false) {}
        assert!(!reactor.is_glib_waiting(), "it has checked");
        let driving = reactor.drive().unwrap();
        reactor.drive_or_be_woken().unwrap().leave_to_glib();
        assert!(reactor.is_glib_waiting(), "it has prepared");
        reactor.ask_glib(&driving, || {
            reactor.drive_or_be_woken().unwrap().leave_to_glib();
        });
        assert!(!reactor.is_glib_waiting(), "the home waits by itself");
        source.destroy();
    }
}
