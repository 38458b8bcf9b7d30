//! What binds a reactor to the thread of its tasks.
//!
//! # Invariants
//! 1. Counts rise under the right to drive and fall on the thread that has raised them. So while they are above 0, `thread`
//!    names that thread, and nobody else drives.
#![forbid(unsafe_code)]

use super::tenant::Tenant;
use super::{Reactor, thread_token};
use crate::sync::{AtomicUsize, Ordering};
use crate::{Error, ErrorKind, Result};
use std::marker::PhantomData;
use std::sync::Arc;

/// The tasks of a reactor.
#[derive(Default)]
pub(crate) struct ThreadPin {
    /// The thread they are on, 0 without tasks.
    thread: AtomicUsize,
    count: AtomicUsize,
    /// The thread that iterates the GMainContext of the reactor's source: while GLib waits, nobody drives. 0 without one.
    glib: AtomicUsize,
}

impl ThreadPin {
    /// True when they are on another thread than `thread`.
    pub(crate) fn are_elsewhere(&self, thread: usize) -> bool {
        let there = self.thread.load(Ordering::SeqCst);
        there != 0 && there != thread
    }

    /// The calling thread serves the reactor's source.
    pub(crate) fn note_glib(&self) {
        self.glib.store(thread_token(), Ordering::Relaxed);
    }

    /// The reactor's source is gone.
    pub(crate) fn forget_glib(&self) {
        self.glib.store(0, Ordering::Relaxed);
    }

    /// True when GLib waits on another thread, or will again.
    pub(crate) fn wait_elsewhere(&self) -> bool {
        let there = self.glib.load(Ordering::Relaxed);
        there != 0 && there != thread_token()
    }

    fn enter(&self, thread: usize) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.thread.store(thread, Ordering::SeqCst);
    }

    /// True when that was the last one.
    fn leave(&self) -> bool {
        let is_last = self.count.fetch_sub(1, Ordering::SeqCst) == 1;
        if is_last {
            self.thread.store(0, Ordering::SeqCst);
        }
        is_last
    }
}

/// A task's share in keeping its context where it is.
pub(crate) struct PinGuard {
    tenant: Arc<Tenant>,
    reactor: Arc<Reactor>,
    /// It ends on its thread.
    thread: PhantomData<*mut ()>,
}

impl PinGuard {
    /// Binds `tenant` and the reactor it is on to the calling thread.
    ///
    /// # Errors
    /// `WrongThread` when another thread drives.
    pub(crate) fn begin(tenant: &Arc<Tenant>) -> Result<PinGuard> {
        loop {
            let reactor = tenant.reactor()?;
            if !reactor.is_driven_here() && reactor.thread_pin.wait_elsewhere() {
                let message = "another thread iterates the GMainContext that drives this context";
                return Err(Error::new(ErrorKind::WrongThread, message));
            }
            let _driving = reactor.drive()?;
            // Nobody moves the context any more, but somebody may just have done so.
            if tenant.is_on(&reactor) {
                reactor.thread_pin.enter(thread_token());
                tenant.pins.fetch_add(1, Ordering::SeqCst);
                let (tenant, reactor) = (Arc::clone(tenant), Arc::clone(&reactor));
                return Ok(PinGuard {
                    tenant,
                    reactor,
                    thread: PhantomData,
                });
            }
        }
    }

    pub(crate) fn is_of(&self, tenant: &Arc<Tenant>) -> bool {
        Arc::ptr_eq(&self.tenant, tenant)
    }
}

impl Drop for PinGuard {
    fn drop(&mut self) {
        self.tenant.pins.fetch_sub(1, Ordering::SeqCst);
        if self.reactor.thread_pin.leave() && !self.reactor.is_driven_here() {
            // Others may have left things here that they could not drop.
            self.reactor.leave_to_home();
        }
    }
}

impl Tenant {
    /// True while tasks bind this tenant to their thread.
    pub(crate) fn has_pins(&self) -> bool {
        self.pins.load(Ordering::Acquire) > 0
    }
}
