//! Bottom halves: callbacks that any thread, also a signal handler, can ask the home to run soon.
//!
//! A bottom half is queued at most once, however often it is scheduled; those queued run in the order in which they were
//! first scheduled. One that is scheduled from its own callback runs in the next iteration.
//!
//! The thread that drives the context puts them into its own queue, without a read-modify-write operation or a system call;
//! everybody else pushes to a lock-free list, which the home empties into that queue.
//!
//! # Invariants
//! 1. A node belongs to its [`Bh`] handle until that is gone; from then on whoever takes it from the list or the queue frees it.
//! 2. A node stands on the list of the others at most once and in the home's queue at most once; `flags` says where.
//! 3. Only the driving thread, or the one that tears the AioContext down, calls or drops the callback.
//! 4. A node that is queued or being called belongs to a context that has not ended, so `core` is valid there.
#![allow(unsafe_code)] // nodes live in intrusive lists

mod flags;
pub(crate) mod node;

use crate::aio::Core;
use crate::list::Pushed;
use crate::reactor::{self, Claimed, Urgency};
use flags::Duty;
pub(crate) use flags::Wish;
use node::{BhNode, Once, Repeat};
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
    core: Arc<Core>,
}

// SAFETY: the node's callback is `Send`; what a handle does to the node from another thread than the home is atomic.
unsafe impl Send for Bh {}
// SAFETY: as above.
unsafe impl Sync for Bh {}

impl Bh {
    pub(crate) fn new(
        core: Arc<Core>,
        name: &'static str,
        callback: impl Fn() + Send + 'static,
    ) -> Bh {
        let node = BhNode::boxed(&core, name, Repeat(callback));
        Bh { node, core }
    }

    /// Runs the callback in the next iteration. Async-signal-safe.
    pub fn schedule(&self) {
        self.wish(Wish::Urgent);
    }

    /// Runs the callback when the context iterates anyway, at the latest after 10 ms. Async-signal-safe.
    pub fn schedule_idle(&self) {
        self.wish(Wish::Idle);
    }

    /// Takes a schedule back, if the callback has not begun.
    pub fn cancel(&self) {
        if reactor::at_home(&self.core, Urgency::Idle, |bhs| bhs.cancel(self.node())).is_none() {
            self.node().flags.withdraw();
        }
    }

    #[inline]
    fn wish(&self, wish: Wish) {
        // SAFETY: the handle keeps the node allocated, and it is a node of this context.
        let schedule = |bhs: &Claimed<'_>| unsafe { bhs.schedule(self.node, wish, &self.core) };
        if reactor::at_home(&self.core, urgency(wish), schedule).is_none() {
            let duty = self.node().flags.ask(wish);
            self.perform(duty, urgency(wish));
        }
    }

    fn perform(&self, duty: Duty, urgency: Urgency) {
        match duty {
            // SAFETY: the flags gave the duty to this call (invariant 2).
            Duty::Push => unsafe { push(&self.core, self.node, urgency) },
            Duty::Kick => self.core.kick(urgency),
            Duty::Nothing => {}
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
        let discard = |bhs: &Claimed<'_>| unsafe { bhs.discard(self.node) };
        if reactor::at_home(&self.core, Urgency::Now, discard).is_none() {
            // The home may free the node as soon as it is marked, so nothing of it is used after that.
            let duty = self.node().flags.delete();
            self.perform(duty, Urgency::Now);
        }
    }
}

impl fmt::Debug for Bh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bh").field(&self.node().name).finish()
    }
}

fn urgency(wish: Wish) -> Urgency {
    match wish {
        Wish::Urgent => Urgency::Now,
        Wish::Idle => Urgency::Idle,
    }
}

/// Queues a callback that runs once and has no handle. When the context has been torn down it is dropped uncalled.
pub(crate) fn schedule_oneshot(
    core: &Arc<Core>,
    name: &'static str,
    callback: impl FnOnce() + Send + 'static,
) {
    let node = BhNode::boxed(core, name, Once::new(callback));
    // SAFETY: a fresh node of this context, given away.
    let schedule = |bhs: &Claimed<'_>| unsafe { bhs.schedule_once(node, core) };
    if reactor::at_home(core, Urgency::Now, schedule).is_none() {
        // SAFETY: a fresh node, given away.
        unsafe { node.as_ref() }.flags.ask_once();
        // SAFETY: its flags say that it is pushed.
        unsafe { push(core, node, Urgency::Now) };
    }
}

/// # Safety
/// The caller has the duty to push the allocated node.
unsafe fn push(core: &Core, node: NonNull<BhNode>, urgency: Urgency) {
    // SAFETY: the caller's word. From here on the home may free the node.
    match unsafe { core.bhs.push(node.as_ptr()) } {
        Pushed::First => core.kick(urgency),
        Pushed::Behind => {}
        // SAFETY: a torn-down context has refused the node, so it is on no list.
        Pushed::Closed => unsafe { node::refused(node) },
    }
}
