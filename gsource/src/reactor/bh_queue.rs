//! The bottom halves that a home has to run: its own queue, filled by itself and from the remote lists of its tenants.
//!
//! There is one queue for all tenants, so bottom halves run in the order in which they were scheduled. `pending` has those for
//! the next iteration, `slice` those of this one; a nested iteration runs the rest of that.
//!
//! # Invariants
//! 1. Only the driving thread, or a signal handler on it, uses the queues, and only through a [`BhQueueGuard`].
//! 2. A queued node belongs to a tenant that is on this reactor and has not ended.
#![allow(unsafe_code)] // queued nodes are raw pointers

use super::attachment::Attachment;
use super::bh::flags::BhTurn;
use super::bh::{self, BhNode};
use super::home_queue::{HomeQueue, QueueGuard, QueueLock};
use super::tenant::Tenant;
use super::{Driving, Reactor, Urgency};
use crate::Result;
use crate::list::Taken;
use crate::sync::Ordering;
use std::cell::Cell;
use std::ptr::{self, NonNull};
use std::sync::Arc;

crate::sync::thread_local! {
    /// The reactor that the calling thread drives, the innermost one; null when there is none. After a token was forgotten the
    /// reactor may be gone. No other one is at its address then (see `Reactor::drop`), so no tenant seems to be there.
    static DRIVEN: Cell<*const Reactor> = const { Cell::new(ptr::null()) };
}

/// The queues, in a cache line that other threads do not write.
#[repr(align(64))]
pub(super) struct BhQueue {
    lock: QueueLock,
    pending: HomeQueue<BhNode>,
    slice: HomeQueue<BhNode>,
}

impl BhQueue {
    pub(super) fn new() -> BhQueue {
        BhQueue {
            lock: QueueLock::new(),
            pending: HomeQueue::new(),
            slice: HomeQueue::new(),
        }
    }

    #[inline]
    fn guarded<'a>(&'a self, guard: QueueGuard<'a>) -> BhQueueGuard<'a> {
        BhQueueGuard {
            queue: self,
            _guard: guard,
        }
    }

    /// True when nothing is queued.
    #[inline]
    fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.slice.is_empty()
    }
}

/// The queues, locked by the driving thread.
pub(crate) struct BhQueueGuard<'a> {
    queue: &'a BhQueue,
    _guard: QueueGuard<'a>,
}

/// A node taken from the queue, and what its turn is used for.
struct NextBh {
    node: NonNull<BhNode>,
    turn: BhTurn,
}

impl BhQueueGuard<'_> {
    /// Schedules a node of `tenant`.
    ///
    /// # Safety
    /// The node is allocated and has a handle.
    #[inline]
    pub(crate) unsafe fn schedule(&self, node: NonNull<BhNode>, urgency: Urgency, tenant: &Tenant) {
        self.take_from_list(tenant);
        // SAFETY: the caller's promise.
        if unsafe { node.as_ref() }.flags.schedule(urgency) {
            // SAFETY: the flags say that it must be queued.
            unsafe { self.queue(node) };
        }
    }

    /// Schedules a fresh node of `tenant`, which is given away.
    ///
    /// # Safety
    /// The node is allocated and no other code has it.
    #[inline]
    pub(super) unsafe fn schedule_once(&self, node: NonNull<BhNode>, tenant: &Tenant) {
        self.take_from_list(tenant);
        // SAFETY: the caller's promise.
        unsafe { node.as_ref() }.flags.schedule_once();
        // SAFETY: a fresh node is queued nowhere.
        unsafe { self.queue(node) };
    }

    /// Takes over a node whose handle goes.
    ///
    /// # Safety
    /// The node is allocated.
    pub(crate) unsafe fn discard(&self, node: NonNull<BhNode>) {
        // SAFETY: the caller's promise.
        unsafe { node.as_ref() }.note_deletion();
        // SAFETY: as above.
        if unsafe { node.as_ref() }.flags.discard() {
            // SAFETY: the flags say that it must be queued.
            unsafe { self.queue(node) };
        }
    }

    pub(crate) fn cancel(&self, node: &BhNode) {
        node.flags.cancel_at_home();
    }

    /// # Safety
    /// The node's flags say that it must be queued.
    #[inline]
    unsafe fn queue(&self, node: NonNull<BhNode>) {
        // SAFETY: the flags allow it, and `self` has the lock.
        unsafe { self.queue.pending.push(node.as_ptr()) };
    }

    /// Queues what other threads have scheduled for `tenant`, so that it runs before what the home schedules next.
    #[inline]
    fn take_from_list(&self, tenant: &Tenant) {
        if !tenant.bhs.is_empty() {
            self.take_over(tenant.bhs.take());
        }
    }

    fn take_over(&self, mut taken: Taken<BhNode>) {
        while let Some(node) = NonNull::new(taken.pop()) {
            // SAFETY: a taken node is allocated until the home frees it.
            if unsafe { node.as_ref() }.flags.take_over() {
                // SAFETY: the flags say that it must be queued.
                unsafe { self.queue(node) };
            }
        }
    }

    /// What is pending runs in this iteration.
    #[inline]
    fn begin_slice(&self) {
        // SAFETY: `self` has the lock of both.
        unsafe { self.queue.slice.append(&self.queue.pending) };
    }

    /// Takes the next node of this iteration.
    #[inline]
    fn next(&self) -> Option<NextBh> {
        // SAFETY: `self` has the lock.
        let node = NonNull::new(unsafe { self.queue.slice.pop() })?;
        // SAFETY: a queued node is allocated.
        let turn = unsafe { node.as_ref() }.flags.begin();
        Some(NextBh { node, turn })
    }

    /// Puts the nodes of `tenant` that run in this iteration before the others.
    fn prefer(&self, tenant: &Tenant) {
        let own = HomeQueue::new();
        // SAFETY: `self` has the lock; `own` is local.
        unsafe { self.queue.slice.extract(&own, |node| node.is_of(tenant)) };
        // SAFETY: as above.
        unsafe { own.append(&self.queue.slice) };
        // SAFETY: as above.
        unsafe { self.queue.slice.append(&own) };
    }

    /// As `next`, if that is a node of `tenant`.
    fn next_of(&self, tenant: &Tenant) -> Option<NextBh> {
        let is_own = Cell::new(false);
        let look = |node: &BhNode| {
            is_own.set(node.is_of(tenant));
            true
        };
        // SAFETY: `self` has the lock.
        unsafe { self.queue.slice.any(look) };
        is_own.get().then(|| self.next()).flatten()
    }

    fn any(&self, found: impl Fn(&BhNode) -> bool) -> bool {
        // SAFETY: `self` has the lock.
        let in_slice = unsafe { self.queue.slice.any(&found) };
        // SAFETY: as above.
        in_slice || unsafe { self.queue.pending.any(&found) }
    }

    /// Takes out the nodes that `chosen` names, oldest first.
    fn extract(&self, chosen: impl Fn(&BhNode) -> bool) -> HomeQueue<BhNode> {
        let out = HomeQueue::new();
        for queue in [&self.queue.slice, &self.queue.pending] {
            // SAFETY: `self` has the lock; `out` is local.
            unsafe { queue.extract(&out, &chosen) };
        }
        out
    }
}

/// Calls `change` with the queues of the home of `tenant` if the calling thread is that home. Then wakes the home if it is about to
/// sleep. Without effect elsewhere, and in a signal handler that has interrupted another change. Async-signal-safe.
#[inline]
pub(crate) fn at_home(
    tenant: &Tenant,
    urgency: Urgency,
    change: impl FnOnce(&BhQueueGuard<'_>),
) -> Option<()> {
    on_home(tenant, |reactor| reactor.change_bhs(urgency, change)).flatten()
}

/// Calls `work` with the reactor of `tenant` if the calling thread drives it.
#[inline]
pub(super) fn on_home<T>(tenant: &Tenant, work: impl FnOnce(&Reactor) -> T) -> Option<T> {
    let driven = DRIVEN.with(Cell::get);
    if driven.is_null() || !ptr::eq(tenant.reactor.load(Ordering::Acquire), driven) {
        return None;
    }
    // SAFETY: `tenant` is on it, so it is alive; only this thread, which drives it, can move the tenant away.
    Some(work(unsafe { &*driven }))
}

/// The calling thread drives `reactor` now.
#[inline]
pub(super) fn enter(reactor: &Reactor) {
    DRIVEN.with(|driven| driven.set(reactor));
}

/// The calling thread is that of a child process, and drives nothing.
pub(super) fn leave_all() {
    DRIVEN.with(|driven| driven.set(ptr::null()));
}

/// The calling thread does not drive `reactor` any more.
pub(super) fn leave(reactor: &Reactor) {
    if ptr::eq(DRIVEN.with(Cell::get), reactor) {
        DRIVEN.with(|driven| driven.set(ptr::null()));
    }
}

impl Reactor {
    #[inline]
    fn change_bhs(&self, urgency: Urgency, change: impl FnOnce(&BhQueueGuard<'_>)) -> Option<()> {
        let guarded = self.bhs.guarded(self.bhs.lock.try_begin()?);
        change(&guarded);
        drop(guarded);
        if self.state.is_sleeping() {
            self.wake_for(urgency);
        }
        Some(())
    }

    /// Runs the bottom halves of `tenant` and nothing else. True when one that is not idle ran.
    ///
    /// # Errors
    /// `WrongThread` while another thread drives.
    pub(crate) fn run_bhs_of(&self, tenant: &Tenant) -> Result<bool> {
        let driving = self.drive()?;
        driving.collect_ready();
        driving.lock_bhs().prefer(tenant);
        Ok(driving.run_each(|queue| queue.next_of(tenant)))
    }
}

impl Driving<'_> {
    #[inline]
    fn lock_bhs(&self) -> BhQueueGuard<'_> {
        let bhs = &self.reactor.bhs;
        bhs.guarded(bhs.lock.begin())
    }

    #[inline]
    fn any_bh(&self, found: impl Fn(&BhNode) -> bool) -> bool {
        !self.reactor.bhs.is_empty() && self.lock_bhs().any(found)
    }

    /// True when a bottom half is to run or to be freed at once.
    #[inline]
    pub(super) fn has_urgent_bh(&self) -> bool {
        self.any_bh(|node| node.flags.is_urgent())
    }

    /// True when a bottom half is to run at once.
    pub(super) fn has_due_bh(&self) -> bool {
        self.any_bh(|node| node.flags.is_scheduled() && node.flags.is_urgent())
    }

    pub(super) fn has_scheduled_bh(&self) -> bool {
        self.any_bh(|node| node.flags.is_scheduled())
    }

    /// Takes over the scheduled bottom halves of every tenant that was kicked. All that are queued run in this iteration.
    #[inline]
    pub(super) fn collect_ready(&self) {
        self.take_kicked();
        if !self.reactor.bhs.pending.is_empty() {
            self.begin_slice();
        }
    }

    /// Takes over the scheduled bottom halves of every tenant that was kicked.
    #[inline]
    pub(super) fn take_kicked(&self) {
        if !self.reactor.kicked.is_empty() {
            self.take_each_kicked();
        }
    }

    #[inline(never)]
    fn begin_slice(&self) {
        self.lock_bhs().begin_slice();
    }

    #[inline(never)]
    fn take_each_kicked(&self) {
        let mut kicked = self.reactor.kicked.take();
        loop {
            let attachment: *mut Attachment = kicked.pop();
            if attachment.is_null() {
                return;
            }
            // SAFETY: the list owned a count, which belongs to this call now.
            let attachment = unsafe { Arc::from_raw(attachment) };
            // Before the bottom halves are taken, so that a later one kicks again.
            attachment.queued.release();
            if attachment.tenant.is_on(self.reactor) {
                self.lock_bhs().take_from_list(&attachment.tenant);
            }
        }
    }

    /// Frees the bottom halves that are queued only to be freed. `None` when there were none; true when one of them was deleted in
    /// its own callback: QEMU's tests want to see the iteration that frees it.
    #[inline]
    pub(super) fn free_deleted_bhs(&self) -> Option<bool> {
        let is_deleted = |node: &BhNode| node.flags.is_urgent() && !node.flags.is_scheduled();
        if !self.any_bh(is_deleted) {
            return None;
        }
        let deleted = self.lock_bhs().extract(is_deleted);
        let mut any_in_call = false;
        // SAFETY: the queue is local.
        while let Some(node) = NonNull::new(unsafe { deleted.pop() }) {
            // SAFETY: a node that was queued is allocated.
            any_in_call |= unsafe { node.as_ref() }.is_deleted_in_call();
            // SAFETY: as above.
            unsafe { node.as_ref() }.flags.begin();
            // SAFETY: this is the end of the turn that has just begun. No handle is left to change the node meanwhile.
            unsafe { bh::free_if_done(node) };
        }
        Some(any_in_call)
    }

    /// Runs the bottom halves of this iteration. A nested iteration runs the rest of this one's. True when one that is not idle
    /// ran.
    #[inline]
    pub(super) fn run_bhs(&self) -> bool {
        !self.reactor.bhs.slice.is_empty() && self.run_each(|queue| queue.next())
    }

    #[inline]
    fn run_each(&self, next: impl Fn(&BhQueueGuard<'_>) -> Option<NextBh>) -> bool {
        let mut progress = false;
        loop {
            let taken = next(&self.lock_bhs());
            let Some(NextBh { node, turn }) = taken else {
                return progress;
            };
            if turn.calls {
                progress |= turn.urgent;
                // SAFETY: taken from this home's queue, and `self` is the right to drive it.
                if unsafe { bh::run(node) }.is_err() {
                    let _guard = self.lock_bhs();
                    // SAFETY: a node is freed at the end of its turn.
                    unsafe { node.as_ref() }.flags.panicked();
                }
            }
            // SAFETY: this is the end of the turn.
            unsafe { bh::free_if_done(node) };
        }
    }

    /// Puts the queued bottom halves of `tenant`, which moves, back on its list. The new home finds them there.
    pub(super) fn hand_over_bhs(&self, tenant: &Tenant) {
        let guard = self.lock_bhs();
        guard.take_from_list(tenant);
        let leaving = guard.extract(|node| node.is_of(tenant));
        // SAFETY: the queue is local.
        while let Some(node) = NonNull::new(unsafe { leaving.pop() }) {
            // SAFETY: a node that was queued is allocated.
            if unsafe { node.as_ref() }.flags.park() {
                // SAFETY: the flags say that it must be pushed. The list of a tenant that moves is not closed, so it takes it.
                let _ = unsafe { tenant.bhs.push(node.as_ptr()) };
            }
        }
    }

    /// Drops the callbacks of `tenant` that were to run once.
    pub(crate) fn drop_oneshots(&self, tenant: &Tenant) {
        let guard = self.lock_bhs();
        guard.take_from_list(tenant);
        let dropped = guard.extract(|node| node.is_of(tenant) && node.flags.is_deleted());
        drop(guard);
        // SAFETY: the queue is local.
        while let Some(node) = NonNull::new(unsafe { dropped.pop() }) {
            // SAFETY: just taken from the queue. The caller says that no bottom half runs.
            unsafe { bh::release(node) };
        }
    }

    /// Frees the deleted bottom halves of `tenant`, which ends, and gives the others back to their handles.
    pub(super) fn release_bhs(&self, tenant: &Tenant) {
        // What the home has goes first: a thread that finds the list closed may free a node.
        let queued = self.lock_bhs().extract(|node| node.is_of(tenant));
        // SAFETY: the queue is local.
        while let Some(node) = NonNull::new(unsafe { queued.pop() }) {
            // SAFETY: just taken from the queue. No bottom half of a tenant that ends runs.
            unsafe { bh::release(node) };
        }
        let mut others = tenant.bhs.close();
        while let Some(node) = NonNull::new(others.pop()) {
            // SAFETY: just taken from the closed list.
            unsafe { bh::end(node) };
        }
    }
}
