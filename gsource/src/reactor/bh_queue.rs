//! The bottom halves of a reactor's contexts: the home's own queue, and what comes from the others.
//!
//! One queue for all contexts, so that bottom halves run in the order in which they were scheduled. `pending` are those for
//! the next iteration, `slice` those of this one; a nested iteration runs the rest of it.
//!
//! # Invariants
//! 1. Only the driving thread, or a signal handler on it, uses the queues, and only through a [`BhQueueGuard`].
//! 2. A queued node belongs to a context that is on this reactor and has not ended.
#![allow(unsafe_code)] // queued nodes are raw pointers

use super::bh::{self, BhNode};
use super::home_queue::{self, HomeQueue, QueueLock};
use super::tenant::Tenant;
use super::{Attachment, Driving, Reactor, Urgency};
use crate::sync::Ordering;
use std::cell::Cell;
use std::ptr::{self, NonNull};
use std::sync::Arc;

crate::sync::thread_local! {
    /// The reactor that the calling thread drives, the innermost one; null when it is not known. A reactor whose token was
    /// forgotten may be gone: then nothing else is ever at this address, so no context is found to be there.
    static DRIVEN: Cell<*const Reactor> = const { Cell::new(ptr::null()) };
}

/// The bottom halves that a home holds. Apart from what other threads write.
#[repr(align(64))]
pub(crate) struct BhQueue {
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
    fn claim(&self, _driving: &Driving<'_>) -> BhQueueGuard<'_> {
        BhQueueGuard {
            bhs: self,
            _guard: self.lock.begin(),
        }
    }

    /// True when nothing is queued. Only the driving thread queues.
    #[inline]
    fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.slice.is_empty()
    }

    /// True when something is there to run or to free at once.
    #[inline]
    pub(super) fn has_urgent(&self, driving: &Driving<'_>) -> bool {
        !self.is_empty() && self.claim(driving).any(|node| node.flags.is_urgent())
    }

    /// True when something is there to be called at once.
    pub(super) fn has_due(&self, driving: &Driving<'_>) -> bool {
        let due = |node: &BhNode| node.flags.is_scheduled() && node.flags.is_urgent();
        self.claim(driving).any(due)
    }

    pub(super) fn has_scheduled(&self, driving: &Driving<'_>) -> bool {
        !self.is_empty() && self.claim(driving).any(|node| node.flags.is_scheduled())
    }
}

/// The queues, in the hands of the driving thread.
pub(crate) struct BhQueueGuard<'a> {
    bhs: &'a BhQueue,
    _guard: home_queue::QueueGuard<'a>,
}

impl BhQueueGuard<'_> {
    /// Schedules a node of `tenant`.
    ///
    /// # Safety
    /// The node is allocated and has a handle.
    #[inline]
    pub(crate) unsafe fn schedule(&self, node: NonNull<BhNode>, urgency: Urgency, tenant: &Tenant) {
        self.take_others(tenant);
        // SAFETY: the caller's word.
        if unsafe { node.as_ref() }.flags.schedule(urgency) {
            // SAFETY: the flags say that it must be queued.
            unsafe { self.queue(node) };
        }
    }

    /// Schedules a fresh node of `tenant`, which is given away.
    ///
    /// # Safety
    /// The node is allocated and nobody else has it.
    #[inline]
    pub(crate) unsafe fn schedule_once(&self, node: NonNull<BhNode>, tenant: &Tenant) {
        self.take_others(tenant);
        // SAFETY: the caller's word.
        unsafe { node.as_ref() }.flags.schedule_once();
        // SAFETY: a fresh node is queued nowhere.
        unsafe { self.queue(node) };
    }

    /// Takes over a node whose handle goes.
    ///
    /// # Safety
    /// The node is allocated.
    pub(crate) unsafe fn discard(&self, node: NonNull<BhNode>) {
        // SAFETY: the caller's word.
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
        // SAFETY: the flags allow it, and `self` holds the claim.
        unsafe { self.bhs.pending.push(node.as_ptr()) };
    }

    /// Takes over what others have scheduled on `tenant`, so that it keeps its place before what the home schedules next.
    #[inline]
    fn take_others(&self, tenant: &Tenant) {
        if !tenant.bhs.is_empty() {
            self.take_over(tenant.bhs.take());
        }
    }

    fn take_over(&self, mut taken: crate::list::Taken<BhNode>) {
        while let Some(node) = NonNull::new(taken.pop()) {
            // SAFETY: a taken node is allocated until it is freed by the home.
            if unsafe { node.as_ref() }.flags.take_over() {
                // SAFETY: the flags say that it must be queued.
                unsafe { self.queue(node) };
            }
        }
    }

    /// What is pending is due in this iteration.
    #[inline]
    fn begin_slice(&self) {
        // SAFETY: `self` holds the claim of both.
        unsafe { self.bhs.slice.append(&self.bhs.pending) };
    }

    /// Takes the next node of this iteration and says whether it is to be called, and whether that is progress.
    #[inline]
    fn next(&self) -> Option<(NonNull<BhNode>, bool, bool)> {
        // SAFETY: `self` holds the claim.
        let node = NonNull::new(unsafe { self.bhs.slice.pop() })?;
        // SAFETY: a queued node is allocated.
        let turn = unsafe { node.as_ref() }.flags.begin();
        Some((node, turn.calls, turn.urgent))
    }

    /// Puts what is due of `tenant` before the rest.
    fn prefer(&self, tenant: &Tenant) {
        let own = HomeQueue::new();
        // SAFETY: `self` holds the claim; `own` is ours.
        unsafe { self.bhs.slice.extract(&own, |node| node.is_of(tenant)) };
        // SAFETY: as above.
        unsafe { own.append(&self.bhs.slice) };
        // SAFETY: as above.
        unsafe { self.bhs.slice.append(&own) };
    }

    /// As `next`, if that is one of `tenant`.
    fn next_of(&self, tenant: &Tenant) -> Option<(NonNull<BhNode>, bool, bool)> {
        let is_own = Cell::new(false);
        let look = |node: &BhNode| {
            is_own.set(node.is_of(tenant));
            true
        };
        // SAFETY: `self` holds the claim.
        unsafe { self.bhs.slice.any(look) };
        is_own.get().then(|| self.next()).flatten()
    }

    fn any(&self, found: impl Fn(&BhNode) -> bool) -> bool {
        // SAFETY: `self` holds the claim.
        let in_slice = unsafe { self.bhs.slice.any(&found) };
        // SAFETY: as above.
        in_slice || unsafe { self.bhs.pending.any(&found) }
    }

    /// Takes the nodes of `tenant` out, oldest first.
    fn extract(&self, tenant: &Tenant) -> HomeQueue<BhNode> {
        let out = HomeQueue::new();
        for queue in [&self.bhs.slice, &self.bhs.pending] {
            // SAFETY: `self` holds the claim; `out` is ours.
            unsafe { queue.extract(&out, |node| node.is_of(tenant)) };
        }
        out
    }
}

/// Calls `change` with the queues of the home of `tenant` if the calling thread is that home and not in the middle of a change,
/// as a signal handler may be; then calls the home should it be about to sleep. Async-signal-safe.
#[inline]
pub(crate) fn at_home(
    tenant: &Tenant,
    urgency: Urgency,
    change: impl FnOnce(&BhQueueGuard<'_>),
) -> Option<()> {
    on_home(tenant, |reactor| change_bhs(reactor, urgency, change)).flatten()
}

/// Calls `work` with the reactor of `tenant` if the calling thread drives that.
#[inline]
pub(crate) fn on_home<T>(tenant: &Tenant, work: impl FnOnce(&Reactor) -> T) -> Option<T> {
    let driven = DRIVEN.with(Cell::get);
    if driven.is_null() || !ptr::eq(tenant.reactor.load(Ordering::Acquire), driven) {
        return None;
    }
    // SAFETY: `tenant` is there, so it is alive; the thread that drives it, which is this one, alone moves a context away.
    Some(work(unsafe { &*driven }))
}

#[inline]
fn change_bhs(
    reactor: &Reactor,
    urgency: Urgency,
    change: impl FnOnce(&BhQueueGuard<'_>),
) -> Option<()> {
    let claimed = BhQueueGuard {
        bhs: &reactor.bhs,
        _guard: reactor.bhs.lock.try_begin()?,
    };
    change(&claimed);
    drop(claimed);
    if reactor.state.is_sleeping() {
        reactor.call(urgency);
    }
    Some(())
}

/// The calling thread drives `reactor` now.
#[inline]
pub(super) fn enter(reactor: &Reactor) {
    DRIVEN.with(|driven| driven.set(reactor));
}

/// The calling thread does not drive `reactor` any more.
pub(super) fn leave(reactor: &Reactor) {
    if ptr::eq(DRIVEN.with(Cell::get), reactor) {
        DRIVEN.with(|driven| driven.set(ptr::null()));
    }
}

impl Reactor {
    /// Takes over the scheduled bottom halves of every context that was kicked, and makes all that is there due.
    #[inline]
    pub(crate) fn collect_ready(&self, driving: &Driving<'_>) {
        self.take_kicked(driving);
        if !self.bhs.pending.is_empty() {
            self.make_due(driving);
        }
    }

    /// Takes over the scheduled bottom halves of every context that was kicked.
    #[inline]
    pub(crate) fn take_kicked(&self, driving: &Driving<'_>) {
        if !self.ready.is_empty() {
            self.collect_kicked(driving);
        }
    }

    #[inline(never)]
    fn make_due(&self, driving: &Driving<'_>) {
        self.bhs.claim(driving).begin_slice();
    }

    #[inline(never)]
    fn collect_kicked(&self, driving: &Driving<'_>) {
        let mut kicked = self.ready.take();
        loop {
            let attachment: *mut Attachment = kicked.pop();
            if attachment.is_null() {
                return;
            }
            // SAFETY: the list owned a count, which is ours now.
            let attachment = unsafe { Arc::from_raw(attachment) };
            // Before the bottom halves are taken, so that a later one kicks again.
            attachment.queued.release();
            if attachment.tenant.is_on(self) {
                self.bhs.claim(driving).take_others(&attachment.tenant);
            }
        }
    }

    /// Runs the bottom halves that are due. A nested iteration runs the rest of this one's.
    #[inline]
    pub(super) fn run_bhs(&self, driving: &Driving<'_>) -> bool {
        !self.bhs.slice.is_empty() && self.run_each(driving, |claimed| claimed.next())
    }

    /// Runs those of `tenant` that are due.
    pub(super) fn run_due_of(&self, tenant: &Tenant, driving: &Driving<'_>) -> bool {
        self.bhs.claim(driving).prefer(tenant);
        self.run_each(driving, |claimed| claimed.next_of(tenant))
    }

    #[inline]
    fn run_each(
        &self,
        driving: &Driving<'_>,
        next: impl Fn(&BhQueueGuard<'_>) -> Option<(NonNull<BhNode>, bool, bool)>,
    ) -> bool {
        let mut progress = false;
        loop {
            let taken = next(&self.bhs.claim(driving));
            let Some((node, calls, counts)) = taken else {
                return progress;
            };
            if calls {
                progress |= counts;
                // SAFETY: taken from this home's queue, and `driving` says that this is the home.
                if unsafe { bh::run(node) }.is_err() {
                    let _claim = self.bhs.claim(driving);
                    // SAFETY: a node is freed at the end of its turn.
                    unsafe { node.as_ref() }.flags.panicked();
                }
            }
            // SAFETY: this is the end of the turn.
            unsafe { bh::free_if_done(node) };
        }
    }

    /// Gives the bottom halves of `tenant` to whatever reactor it goes to.
    pub(crate) fn hand_over_bhs(&self, tenant: &Tenant, driving: &Driving<'_>) {
        let claimed = self.bhs.claim(driving);
        claimed.take_others(tenant);
        let leaving = claimed.extract(tenant);
        // SAFETY: ours.
        while let Some(node) = NonNull::new(unsafe { leaving.pop() }) {
            // SAFETY: a node that was queued is allocated.
            if unsafe { node.as_ref() }.flags.park() {
                // SAFETY: the flags say that it must be pushed; a context that moves has not ended, so it is taken.
                let _ = unsafe { tenant.bhs.push(node.as_ptr()) };
            }
        }
    }

    /// Frees the deleted bottom halves of `tenant`, which ends, and gives the others back to their handles.
    pub(crate) fn release_bhs(&self, tenant: &Tenant, driving: &Driving<'_>) {
        // What the home holds goes first: who finds the list closed may free a node.
        let held = self.bhs.claim(driving).extract(tenant);
        // SAFETY: a queue of our own.
        while let Some(node) = NonNull::new(unsafe { held.pop() }) {
            // SAFETY: just taken from the queue of a context that ends, which it does not while one of them runs.
            unsafe { bh::release(node) };
        }
        let mut others = tenant.bhs.close();
        while let Some(node) = NonNull::new(others.pop()) {
            // SAFETY: just taken from the closed list.
            unsafe { bh::end(node) };
        }
    }
}
