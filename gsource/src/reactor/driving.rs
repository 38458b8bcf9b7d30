//! The right to drive a reactor: one thread at a time has it, as tokens.
//!
//! What only the driving thread may do is a method of its token, [`Driving`], and acts on the token's own reactor. So no code
//! can use the right to one reactor for another.
//!
//! # Invariants
//! 1. The tokens of a reactor are on one thread, which `driver` names.
//! 2. A [`HomeCell`] is opened in this file only, through a token of the reactor that the cell is part of.
#![allow(unsafe_code)] // shares state that one thread at a time uses

use super::{HomeState, Reactor, bh_queue};
use crate::poller::EVENTS;
use crate::poller::epoll::Event;
use crate::sync::Ordering;
use crate::{Error, ErrorKind, Result, fork};
use std::cell::{RefCell, RefMut};
use std::fmt;
use std::marker::PhantomData;

/// In place of a driver in a child process. Odd, so no thread's token.
pub(super) const PARENT: usize = usize::MAX;

/// The right to drive a reactor. A thread has it until it drops the last of its tokens.
pub struct Driving<'a> {
    pub(super) reactor: &'a Reactor,
    /// The token belongs to its thread.
    thread: PhantomData<*mut ()>,
}

/// State of a reactor that only the thread that drives it may touch.
pub(super) struct HomeCell<T>(RefCell<T>);

// SAFETY: invariants 1 and 2 confine every access to one thread at a time; the value may move between threads.
unsafe impl<T: Send> Sync for HomeCell<T> {}

impl<T> HomeCell<T> {
    pub(super) fn new(value: T) -> Self {
        HomeCell(RefCell::new(value))
    }
}

impl Driving<'_> {
    /// The state of the home, for as long as no callback runs.
    #[inline]
    pub(super) fn home(&self) -> RefMut<'_, HomeState> {
        self.reactor.home.0.borrow_mut()
    }

    /// Room for what a wait reports.
    pub(super) fn events(&self) -> RefMut<'_, Box<[Event; EVENTS]>> {
        self.reactor.events.0.borrow_mut()
    }

    /// True when the thread has another token, so this one may be inside a callback.
    #[doc(hidden)] // for the contexts of qcontext
    pub fn is_nested(&self) -> bool {
        self.reactor.tokens.load(Ordering::Relaxed) > 1
    }

    /// Counts this token out. True when it was the last one.
    #[inline]
    fn was_last(&self) -> bool {
        let left = self.reactor.tokens.load(Ordering::Relaxed) - 1;
        self.reactor.tokens.store(left, Ordering::Relaxed);
        left == 0
    }

    /// Ends the source's prepare: until its check, GLib sleeps without the right to drive.
    pub(super) fn leave_to_glib(self) {
        let reactor = self.reactor;
        let other_sleeps = reactor.glib.fall_asleep();
        let was_last = self.was_last();
        std::mem::forget(self);
        if was_last {
            reactor.give_back();
        }
        if other_sleeps {
            // A second GMainContext has a source of this reactor, and could not prepare it while this thread did.
            reactor.write_wake_fd();
        }
    }
}

impl Drop for Driving<'_> {
    fn drop(&mut self) {
        let reactor = self.reactor;
        let is_last = reactor.tokens.load(Ordering::Relaxed) == 1;
        let glib_sleeps = is_last && reactor.glib.is_asleep();
        if glib_sleeps {
            // Counts this token out afterwards: a log handler may drive the reactor here, and must not give the right back.
            self.hand_wait_to_glib();
        }
        if !self.was_last() {
            return;
        }
        reactor.give_back();
        if reactor.glib.is_asleep() {
            reactor.wake_glib(glib_sleeps);
        }
    }
}

impl fmt::Debug for Driving<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driving").finish_non_exhaustive()
    }
}

impl Reactor {
    /// Gives the calling thread the right to drive, until the token is dropped.
    ///
    /// # Errors
    /// `WrongThread` while another thread drives, or has tasks here.
    pub fn drive(&self) -> Result<Driving<'_>> {
        let me = thread_token();
        if self.driver.load(Ordering::Relaxed) != me && !self.become_driver(me) {
            return Err(self.refuse_driver());
        }
        bh_queue::enter(self);
        let tokens = self.tokens.load(Ordering::Relaxed);
        self.tokens.store(tokens + 1, Ordering::Relaxed);
        Ok(Driving {
            reactor: self,
            thread: PhantomData,
        })
    }

    #[cold]
    fn refuse_driver(&self) -> Error {
        let message = if self.is_of_parent() {
            fork::OF_THE_PARENT
        } else {
            "another thread drives this context, only that one may iterate it"
        };
        Error::new(ErrorKind::WrongThread, message)
    }

    /// In a child process: the reactor belongs to the parent, and no thread here drives it.
    pub(super) fn leave_to_parent(&self) {
        self.vacant.store(PARENT, Ordering::SeqCst);
        self.driver.store(PARENT, Ordering::SeqCst);
    }

    /// True in a child process, for a reactor that was made before fork().
    #[doc(hidden)] // for the contexts of qcontext
    pub fn is_of_parent(&self) -> bool {
        self.vacant.load(Ordering::SeqCst) == PARENT
    }

    /// Makes `me` the driver, if no thread is and no task belongs to another thread.
    fn become_driver(&self, me: usize) -> bool {
        if self.thread_pin.is_elsewhere(me)
            || self
                .driver
                .compare_exchange(0, me, Ordering::SeqCst, Ordering::SeqCst)
                .is_err()
        {
            return false;
        }
        // The last driver may have spawned a task after the first look.
        let is_free = !self.thread_pin.is_elsewhere(me);
        if !is_free {
            self.vacate();
        }
        is_free
    }

    #[inline]
    fn vacate(&self) {
        let vacant = self.vacant.load(Ordering::Relaxed);
        self.driver.store(vacant, Ordering::SeqCst);
    }

    /// Ends the calling thread's right to drive.
    #[inline]
    fn give_back(&self) {
        bh_queue::leave(self);
        self.vacate();
        // Another thread may have released something after the last look here, and relied on the driver.
        if self.has_releases() {
            self.leave_to_home();
        }
    }

    /// True on the thread that drives this reactor.
    #[doc(hidden)] // for the contexts of qcontext
    pub fn is_driven_here(&self) -> bool {
        self.driver.load(Ordering::Acquire) == thread_token()
    }
}

/// A number that names the calling thread while it lives. Even, and never 0.
pub(super) fn thread_token() -> usize {
    crate::sync::thread_local!(static TOKEN: u16 = const { 0 });
    TOKEN.with(|token| std::ptr::from_ref(token).addr())
}
