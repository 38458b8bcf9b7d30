//! A tenant: what a reactor keeps for one AioContext.
//!
//! The AioContext holds its tenant for life and moves it from reactor to reactor. Bottom halves, timers and fd handlers belong
//! to a tenant, so nothing in the reactor knows what an AioContext is.
//!
//! # Threads
//! Any thread may look up the current [`Attachment`], without a lock: also a signal handler does. Only the thread that drives
//! the current reactor replaces it, or one that drives it because no other thread does.
//!
//! # Invariants
//! 1. Replaced attachments stay allocated while any thread is between loading the pointer and being done with it (`visitors`).
//! 2. A bottom half is published before the attachment is loaded to kick it, and a move kicks the new reactor after the pointer
//!    was replaced. So one of the two kicks reaches the reactor that will run the bottom half.
#![allow(unsafe_code)] // the attachment pointer is read without a lock, so that a signal handler can

use super::attachment::Attachment;
use super::bh::BhNode;
use super::bh_queue;
use super::fd_record::FdRecord;
use super::{Driving, PendingRelease, Reactor, Urgency};
use crate::list::List;
use crate::panic_boundary;
use crate::sync::{AtomicPtr, AtomicUsize, Ordering};
use crate::sync::{Mutex, lock, thread};
use crate::{Error, ErrorKind, Result};
use std::ptr;
use std::sync::Arc;

/// A value in a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct OwnCacheLine<T>(T);

/// What a reactor keeps for one AioContext. See the module.
pub(crate) struct Tenant {
    /// Bottom halves that other threads have scheduled. Closed at the end.
    pub(super) bhs: List<BhNode>,
    /// Calls of bottom halves and timers that have not returned. The home writes it.
    calls: OwnCacheLine<AtomicUsize>,
    /// The current reactor, to compare with; null after the end.
    pub(super) reactor: AtomicPtr<Reactor>,
    /// The current attachment; null after the end. See invariant 1.
    attachment: AtomicPtr<Attachment>,
    visitors: AtomicUsize,
    /// The attachments that must stay allocated, the current one last.
    attachments: Mutex<Vec<Arc<Attachment>>>,
    /// The fd handlers. A move holds this lock, so a change finds the tenant before or after the move.
    pub(super) records: Mutex<Vec<Arc<FdRecord>>>,
    /// Tasks that bind the tenant to their thread.
    pub(super) pins: AtomicUsize,
}

impl Tenant {
    /// A tenant of `reactor`.
    pub(crate) fn new(reactor: &Arc<Reactor>) -> Arc<Tenant> {
        let tenant = Arc::new(Tenant {
            bhs: List::new(),
            calls: OwnCacheLine::default(),
            reactor: AtomicPtr::new(ptr::null_mut()),
            attachment: AtomicPtr::new(ptr::null_mut()),
            visitors: AtomicUsize::new(0),
            attachments: Mutex::new(Vec::new()),
            records: Mutex::new(Vec::new()),
            pins: AtomicUsize::new(0),
        });
        let _none_before = tenant.bind(Attachment::new(&tenant, reactor));
        tenant
    }

    /// Makes the reactor look at this tenant's bottom halves. Async-signal-safe.
    pub(crate) fn kick(&self, urgency: Urgency) {
        self.visit(|attachment| attachment.kick(urgency));
    }

    /// Makes the current or next blocking wait return. Async-signal-safe.
    pub(crate) fn notify(&self) {
        self.visit(|attachment| attachment.reactor.notify());
    }

    /// Calls `visit` with the current attachment, if there is one. It stays allocated meanwhile (invariant 1).
    pub(super) fn visit(&self, visit: impl FnOnce(&Attachment)) {
        self.visitors.fetch_add(1, Ordering::SeqCst);
        // SAFETY: invariant 1: `visitors` keeps what the pointer names allocated.
        if let Some(attachment) = unsafe { self.attachment.load(Ordering::SeqCst).as_ref() } {
            attachment.life.used();
            visit(attachment);
        }
        self.visitors.fetch_sub(1, Ordering::SeqCst);
    }

    /// True when another thread may be between loading the pointer and being done with it. A read-modify-write operation, which
    /// has a place in the order of the visits: a later visitor loads the new pointer.
    fn is_visited(&self) -> bool {
        self.visitors.fetch_add(0, Ordering::SeqCst) > 0
    }

    /// The current reactor.
    ///
    /// # Errors
    /// `Closed` after the end.
    pub(crate) fn reactor(&self) -> Result<Arc<Reactor>> {
        let mut reactor = None;
        self.visit(|attachment| reactor = Some(Arc::clone(&attachment.reactor)));
        reactor.ok_or_else(closed)
    }

    /// Calls `change` with the current reactor until it answers that the tenant was still there.
    pub(crate) fn on_reactor(&self, mut change: impl FnMut(&Reactor) -> bool) {
        let mut done = bh_queue::on_home(self, &mut change).unwrap_or(false);
        while !done {
            done = true;
            self.visit(|attachment| done = change(&attachment.reactor));
        }
    }

    /// True while `reactor` is the current one.
    pub(super) fn is_on(&self, reactor: &Reactor) -> bool {
        ptr::eq(self.reactor.load(Ordering::Acquire), reactor)
    }

    /// Makes `attachment` the current one. The caller drops the earlier ones that no thread visits, without a lock.
    #[must_use]
    pub(super) fn bind(&self, attachment: Arc<Attachment>) -> Vec<Arc<Attachment>> {
        let mut attachments = lock(&self.attachments);
        self.attachment
            .store(Arc::as_ptr(&attachment).cast_mut(), Ordering::SeqCst);
        let reactor = Arc::as_ptr(&attachment.reactor).cast_mut();
        self.reactor.store(reactor, Ordering::Release);
        let mut earlier = std::mem::take(&mut *attachments);
        let is_visited = self.is_visited();
        // One that was kicked late is on the list of a reactor that may never be driven again. `end` frees it.
        let is_used = |place: &mut Arc<Attachment>| is_visited || Arc::strong_count(place) > 1;
        attachments.extend(earlier.extract_if(.., is_used));
        attachments.push(attachment);
        drop(attachments);
        earlier
    }

    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(crate) fn attachments(&self) -> usize {
        lock(&self.attachments).len()
    }

    /// Gives `released` to the home to drop. After the end it is dropped here.
    pub(crate) fn release(&self, released: PendingRelease) {
        // Under the lock that a move takes, so that it does not go to a reactor that the tenant is leaving.
        let records = lock(&self.records);
        let left = self.try_release(vec![released]);
        drop(records);
        panic_boundary::drop_guarded(&"destructor of a callback", left);
    }

    /// Gives `released` to the home to drop. After the end it comes back.
    pub(super) fn try_release(&self, released: Vec<PendingRelease>) -> Vec<PendingRelease> {
        let mut left = released;
        self.visit(|attachment| attachment.reactor.release(std::mem::take(&mut left)));
        left
    }

    /// Makes a call of a bottom half or timer. Meanwhile the tenant neither ends nor moves.
    #[inline]
    pub(super) fn during_call<T>(&self, call: impl FnOnce() -> T) -> T {
        let calls = self.calls.0.load(Ordering::Relaxed);
        self.calls.0.store(calls + 1, Ordering::Relaxed);
        let outcome = call();
        self.calls.0.store(calls, Ordering::Relaxed);
        outcome
    }

    /// True during such a call. On the home thread.
    pub(super) fn is_in_call(&self) -> bool {
        self.calls.0.load(Ordering::Relaxed) > 0
    }

    /// Ends the tenant, whose handlers are removed, on the thread that drives its reactor or on this one if none does. There,
    /// `before` is called first.
    pub(crate) fn end(self: &Arc<Self>, before: Box<dyn FnOnce() + Send>) {
        if let Ok(reactor) = self.reactor() {
            reactor.release([PendingRelease::Tenant(Arc::clone(self), before)]);
            reactor.leave_to_home();
        }
    }

    /// The end, on the home that the tenant is on.
    pub(super) fn end_on(&self, home: &Driving<'_>) {
        self.attachment.store(ptr::null_mut(), Ordering::SeqCst);
        self.reactor.store(ptr::null_mut(), Ordering::Release);
        // A visitor that loaded the pointer before is done with it in a few instructions.
        while self.is_visited() {
            thread::yield_now();
        }
        home.reactor.drop_timers(self);
        home.release_bhs(self);
        // An attachment that was kicked meanwhile is on the reactor's list, which holds it.
        home.collect_ready();
        let attachments = std::mem::take(&mut *lock(&self.attachments));
        for attachment in attachments {
            // An old attachment may still be queued on a reactor that the tenant has left. The entry keeps both alive, so that
            // reactor drops it.
            if !ptr::eq(Arc::as_ptr(&attachment.reactor), home.reactor) {
                let left = Arc::clone(&attachment.reactor);
                left.release([PendingRelease::Attachment(attachment)]);
                left.leave_to_home();
            }
        }
    }
}

/// The error of a call that came after the end.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the AioContext has been torn down")
}
