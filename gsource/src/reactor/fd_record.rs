//! A registered handler: what the reactor keeps of it.
#![allow(unsafe_code)] // shares callbacks that one thread at a time calls

use super::fd_handler::{FdHandler, PollSwitch};
use super::tenant::Tenant;
use crate::panic_boundary::{self, Panicked};
use crate::poller::{ERROR, HANGUP, READABLE, WRITABLE};
use crate::sync::{AtomicBool, AtomicU32, Ordering};
use crate::sync::{Mutex, lock};
use std::fmt;
use std::os::fd::RawFd;
use std::sync::{Arc, Weak};

/// A registered handler. Shared by the AioContext that owns it, the reactor's fd table and the batch being dispatched.
pub(crate) struct FdRecord {
    pub(crate) fd: RawFd,
    pub(super) tenant: Weak<Tenant>,
    pub(crate) handler: FdHandler,
    /// The handler's switch. Nothing else of a handler changes.
    switch: Mutex<Option<Arc<PollSwitch>>>,
    /// The last call of the switch said that busy-polling is on. The home writes it.
    notifications_off: AtomicBool,
    /// Set at once by a removal from any thread, and tested before every call.
    removed: AtomicBool,
    /// Reading waits for `read_poll`; written by the home.
    paused: AtomicBool,
    /// Not waited for until the home's own iteration; written by the home. See `aside`.
    put_aside: AtomicBool,
    /// Calls that have not returned; written by the home.
    calls: AtomicU32,
    /// Runs when everything above has been dropped.
    after: AfterDrop,
}

/// Runs its function when it is dropped, after the fields before it.
#[derive(Default)]
struct AfterDrop(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Drop for AfterDrop {
    fn drop(&mut self) {
        let after = lock(&self.0).take();
        if let Some(after) = after {
            after();
        }
    }
}

// SAFETY: only the driving thread calls the callbacks, and at most one thread drives; the flags are atomic.
unsafe impl Sync for FdRecord {}

impl FdRecord {
    pub(crate) fn new(fd: RawFd, mut handler: FdHandler, tenant: Weak<Tenant>) -> Self {
        let switch = handler.io_poll_switch.take();
        FdRecord {
            fd,
            tenant,
            handler,
            switch: Mutex::new(switch.map(|switch| Arc::new(PollSwitch(switch)))),
            notifications_off: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            put_aside: AtomicBool::new(false),
            calls: AtomicU32::new(0),
            after: AfterDrop::default(),
        }
    }

    /// Lets `after` run when the callbacks have been dropped.
    pub(crate) fn after_drop(&self, after: Box<dyn FnOnce() + Send>) {
        *lock(&self.after.0) = Some(after);
    }

    /// True while the switch has turned the notifications off.
    pub(super) fn has_notifications_off(&self) -> bool {
        self.notifications_off.load(Ordering::Relaxed)
    }

    /// Notes what the switch is called with. The answer is what it was called with before.
    pub(super) fn set_notifications_off(&self, off: bool) -> bool {
        self.notifications_off.swap(off, Ordering::Relaxed)
    }

    /// The function that is called when busy-polling starts and stops.
    pub(crate) fn switch(&self) -> Option<Arc<PollSwitch>> {
        lock(&self.switch).clone()
    }

    /// Changes that. The earlier one comes back, for the home to drop.
    pub(crate) fn replace_switch(
        &self,
        switch: Option<Arc<PollSwitch>>,
    ) -> Option<Arc<PollSwitch>> {
        std::mem::replace(&mut lock(&self.switch), switch)
    }

    /// True when this is what `set_fd_handler` has set for `fd`.
    pub(crate) fn is_handler_of(&self, fd: RawFd) -> bool {
        self.fd == fd && !self.handler.is_waiter
    }

    /// True when `tenant` has it, or had until it was removed.
    pub(super) fn is_of(&self, tenant: &Arc<Tenant>) -> bool {
        std::ptr::eq(self.tenant.as_ptr(), Arc::as_ptr(tenant))
    }

    /// Takes it out of its tenant, if it is still there.
    pub(crate) fn remove(self: &Arc<Self>) {
        if !self.is_removed()
            && let Some(tenant) = self.tenant.upgrade()
        {
            tenant.remove_record(self);
        }
    }

    /// The poller events this record wants now.
    pub(crate) fn interest(&self) -> u32 {
        if self.is_put_aside() {
            return 0;
        }
        let read = self.handler.read.is_some() && !self.is_paused();
        let write = self.handler.write.is_some();
        u32::from(read) * READABLE + u32::from(write) * WRITABLE
    }

    /// True when `ready` asks for the read callback.
    pub(crate) fn wants_read(&self, ready: u32) -> bool {
        self.interest() & READABLE != 0 && ready & (READABLE | HANGUP | ERROR) != 0
    }

    /// True when `ready` asks for the write callback. Without a reader, a hang-up goes to the writer; otherwise it would be reported
    /// for ever.
    pub(crate) fn wants_write(&self, ready: u32) -> bool {
        let mask = WRITABLE
            | ERROR
            | if self.handler.read.is_none() {
                HANGUP
            } else {
                0
            };
        self.interest() & WRITABLE != 0 && ready & mask != 0
    }

    /// Calls one of the callbacks, if the handler has it. A handler that panics is removed.
    pub(super) fn call_or_remove(self: &Arc<Self>, callback: Option<&(dyn Fn() + Send)>) {
        if let Some(callback) = callback
            && self.call(callback).is_err()
        {
            self.remove();
        }
    }

    /// Asks one of the handler's questions. A handler that panics is removed, and has said no.
    pub(super) fn ask_or_remove(self: &Arc<Self>, question: &(dyn Fn() -> bool + Send)) -> bool {
        self.call(question).unwrap_or_else(|_| {
            self.remove();
            false
        })
    }

    /// Asks `read_poll` whether the read callback may be called.
    pub(super) fn may_read(self: &Arc<Self>) -> bool {
        let question = self.handler.read_poll.as_deref();
        question.is_none_or(|question| self.ask_or_remove(question))
    }

    fn call<T>(&self, callback: impl FnOnce() -> T) -> Result<T, Panicked> {
        let calls = self.calls.load(Ordering::Relaxed);
        self.calls.store(calls + 1, Ordering::Relaxed);
        let outcome = panic_boundary::guard(self, callback);
        self.calls.store(calls, Ordering::Relaxed);
        outcome
    }

    /// True while a callback runs. On the home thread.
    pub(crate) fn is_called(&self) -> bool {
        self.calls.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn mark_removed(&self) {
        self.removed.store(true, Ordering::Release);
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    pub(super) fn is_put_aside(&self) -> bool {
        self.put_aside.load(Ordering::Acquire)
    }

    pub(super) fn set_put_aside(&self, aside: bool) {
        self.put_aside.store(aside, Ordering::Release);
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Release);
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }
}

impl fmt::Display for FdRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "handler of fd {}", self.fd)
    }
}
