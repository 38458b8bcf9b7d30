//! Bottom halves that any thread schedules: the home by plain stores, other threads through the tenant's lock-free remote list.
#![allow(unsafe_code)] // nodes are raw pointers

use super::Urgency;
use super::bh::{self, BhNode, RunOnce};
use super::bh_queue::{BhQueueGuard, at_home};
use super::tenant::Tenant;
use crate::list::Pushed;
use std::ptr::NonNull;
use std::sync::Arc;

impl Tenant {
    /// Queues a callback that runs once and has no handle. After the end of the tenant it is dropped uncalled.
    pub(crate) fn schedule_oneshot(
        self: &Arc<Self>,
        name: &'static str,
        callback: impl FnOnce() + Send + 'static,
    ) {
        let node = BhNode::boxed(self, name, RunOnce::new(callback));
        // SAFETY: a fresh node of this tenant, given away.
        let schedule = |bhs: &BhQueueGuard<'_>| unsafe { bhs.schedule_once(node, self) };
        if at_home(self, Urgency::Now, schedule).is_none() {
            // SAFETY: a fresh node, given away.
            unsafe { node.as_ref() }.flags.request_once();
            // SAFETY: its flags say that it is pushed.
            unsafe { self.push_bh(node, Urgency::Now) };
        }
    }

    /// Pushes a node to the remote list.
    ///
    /// # Safety
    /// The node is allocated, and its flags have told the caller to push it.
    pub(crate) unsafe fn push_bh(&self, node: NonNull<BhNode>, urgency: Urgency) {
        // SAFETY: the caller's promise. From here on the home may free the node.
        match unsafe { self.bhs.push(node.as_ptr()) } {
            Pushed::First => self.kick(urgency),
            Pushed::Behind => {}
            // SAFETY: the list of a tenant that has ended refused the node, so it is on no list.
            Pushed::Closed => unsafe { bh::refused(node) },
        }
    }
}
