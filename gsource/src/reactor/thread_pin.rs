//! Binds a reactor to the thread of its tasks.
//!
//! Futures need not be `Send`, so while a reactor has tasks, only their thread may drive it.
//!
//! # Invariants
//! 1. The count rises under the right to drive, and falls on the thread that raised it. So while it is above 0, `thread` names
//!    that thread, and no other one drives.
#![forbid(unsafe_code)]

use super::Reactor;
use super::driving::thread_token;
use super::tenant::Tenant;
use crate::sync::{AtomicUsize, Ordering};
use crate::{Error, ErrorKind, Result};
use std::marker::PhantomData;
use std::sync::Arc;

/// The tasks of a reactor, as a count and a thread.
#[derive(Default)]
pub(super) struct ThreadPin {
    /// The thread they are on, 0 without tasks.
    thread: AtomicUsize,
    count: AtomicUsize,
}

impl ThreadPin {
    /// True when the tasks are on another thread than `thread`.
    pub(super) fn is_elsewhere(&self, thread: usize) -> bool {
        let there = self.thread.load(Ordering::SeqCst);
        there != 0 && there != thread
    }

    fn add(&self, thread: usize) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.thread.store(thread, Ordering::SeqCst);
    }

    /// True when that was the last one.
    fn remove(&self) -> bool {
        let is_last = self.count.fetch_sub(1, Ordering::SeqCst) == 1;
        if is_last {
            self.thread.store(0, Ordering::SeqCst);
        }
        is_last
    }
}

/// Keeps a tenant and its reactor on the calling thread, for one task.
pub(crate) struct PinGuard {
    tenant: Arc<Tenant>,
    reactor: Arc<Reactor>,
    /// It is dropped on its thread.
    thread: PhantomData<*mut ()>,
}

impl PinGuard {
    /// Binds `tenant` and the reactor that it is on to the calling thread.
    ///
    /// # Errors
    /// `WrongThread` when another thread drives.
    pub(crate) fn begin(tenant: &Arc<Tenant>) -> Result<PinGuard> {
        loop {
            let reactor = tenant.reactor()?;
            if !reactor.is_driven_here() && reactor.glib.is_elsewhere() {
                let message = "another thread iterates the GMainContext that drives this context";
                return Err(Error::new(ErrorKind::WrongThread, message));
            }
            let _driving = reactor.drive()?;
            // It cannot move any more, but may have moved before the right was taken.
            if tenant.is_on(&reactor) {
                reactor.thread_pin.add(thread_token());
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
        if self.reactor.thread_pin.remove() && !self.reactor.is_driven_here() {
            // While the reactor was bound, other threads could not drop what they had released here.
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
