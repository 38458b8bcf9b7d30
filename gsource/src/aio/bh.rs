//! Bottom halves: callbacks that the home runs soon. Any thread schedules them, also a signal handler.
//!
//! A bottom half is queued at most once, however often it is scheduled; those queued run in the order in which they were
//! first scheduled. One that is scheduled from its own callback runs in the next iteration.
//!
//! The thread that drives the context puts them into its own queue, without a read-modify-write operation or a system call.
//! Other threads push them to a lock-free list, the remote list, which the home empties into that queue.
//!
//! # Invariants
//! 1. A node belongs to its [`Bh`] handle until that is gone. From then on the thread that takes it from the list or the queue
//!    frees it.
//! 2. A node is on the remote list at most once and in the home's queue at most once. Its flags say where.
//! 3. Only the driving thread, or the one that tears the AioContext down, calls or drops the callback.
//! 4. A node that is queued or being called belongs to a context that has not ended, so its tenant is valid there.
#![allow(unsafe_code)] // nodes live in intrusive lists

use crate::reactor::Urgency;
use crate::reactor::bh::flags::BhAction;
use crate::reactor::bh::{BhNode, RunRepeatedly};
use crate::reactor::bh_queue::{BhQueueGuard, at_home};
use crate::reactor::tenant::Tenant;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

/// A deferred callback. Dropping the handle deletes it, also from inside the callback; a call that has not begun by then
/// does not happen.
///
/// ```
/// use gsource::{AioContext, Wait};
/// let aio = AioContext::new()?;
/// let bh = aio.bh("doc", || println!("ran on the home thread"));
/// bh.schedule();
/// bh.schedule(); // coalesced
/// assert!(aio.poll(Wait::NoBlock)?);
/// # Ok::<(), gsource::Error>(())
/// ```
pub struct Bh {
    node: NonNull<BhNode>,
    tenant: Arc<Tenant>,
}

// SAFETY: the node's callback is `Send`. Handles on other threads than the home change the node by atomic operations only.
unsafe impl Send for Bh {}
// SAFETY: as above.
unsafe impl Sync for Bh {}

impl Bh {
    pub(crate) fn new(
        tenant: Arc<Tenant>,
        name: &'static str,
        callback: impl Fn() + Send + 'static,
    ) -> Bh {
        let node = BhNode::boxed(&tenant, name, RunRepeatedly(callback));
        Bh { node, tenant }
    }

    /// Runs the callback in the next iteration. Async-signal-safe.
    pub fn schedule(&self) {
        self.request(Urgency::Now);
    }

    /// Runs the callback when the context iterates anyway, at the latest after 10 ms. Async-signal-safe.
    pub fn schedule_idle(&self) {
        self.request(Urgency::Idle);
    }

    /// Cancels what was scheduled, if the callback has not begun.
    pub fn cancel(&self) {
        if at_home(&self.tenant, Urgency::Idle, |bhs| bhs.cancel(self.node())).is_none() {
            self.node().flags.cancel();
        }
    }

    #[inline]
    fn request(&self, urgency: Urgency) {
        // SAFETY: the handle keeps the node allocated, and it is a node of this context.
        let schedule =
            |bhs: &BhQueueGuard<'_>| unsafe { bhs.schedule(self.node, urgency, &self.tenant) };
        if at_home(&self.tenant, urgency, schedule).is_none() {
            let action = self.node().flags.request(urgency);
            self.perform(action, urgency);
        }
    }

    fn perform(&self, action: BhAction, urgency: Urgency) {
        match action {
            // SAFETY: the flags told this call to do so (invariant 2).
            BhAction::Push => unsafe { self.tenant.push_bh(self.node, urgency) },
            BhAction::Kick => self.tenant.kick(urgency),
            BhAction::None => {}
        }
    }

    fn node(&self) -> &BhNode {
        // SAFETY: invariant 1: the handle's node is allocated.
        let node = unsafe { self.node.as_ref() };
        node.life.used();
        node
    }
}

impl Drop for Bh {
    fn drop(&mut self) {
        // SAFETY: the node is this handle's, which ends here.
        let discard = |bhs: &BhQueueGuard<'_>| unsafe { bhs.discard(self.node) };
        if at_home(&self.tenant, Urgency::Now, discard).is_none() {
            // The home may free the node as soon as it is marked, so nothing of it is used after that.
            let action = self.node().flags.delete();
            self.perform(action, Urgency::Now);
        }
    }
}

impl fmt::Debug for Bh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bh").field(&self.node().name).finish()
    }
}
