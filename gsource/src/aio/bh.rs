//! Bottom halves: callbacks that any thread, also a signal handler, can ask the home to run soon.
//!
//! A bottom half is queued at most once, however often it is scheduled; those queued run in the order in which they were
//! first scheduled. One that is scheduled from its own callback runs in the next iteration.
//!
//! # Invariants
//! 1. A node belongs to its [`Bh`] handle (or, for a one-shot, to the list) until `DELETED` is set; from then on whoever
//!    takes it from the list frees it.
//! 2. `QUEUED` is won before a push and cleared after the node was taken, so a node is in one list at most.
//! 3. Only the driving thread, or the one that tears the AioContext down, calls or drops the callback.
#![allow(unsafe_code)] // nodes live in an intrusive list

use crate::aio::Core;
use crate::list::{Link, Linked, Pushed};
use crate::reactor::Urgency;
use crate::sync::{AtomicU32, Ordering};
use crate::unwind;
use std::cell::Cell;
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;

const QUEUED: u32 = 1;
const SCHEDULED: u32 = 2;
/// Scheduled to run when the context iterates anyway.
const IDLE: u32 = 4;
/// Scheduled to run at once; outweighs `IDLE`.
const URGENT: u32 = 8;
const DELETED: u32 = 16;
/// The callback panicked and is called no more.
const PANICKED: u32 = 32;
/// What a pass consumes.
const ONE_PASS: u32 = QUEUED | SCHEDULED | IDLE | URGENT;

enum Work {
    Repeat(Box<dyn Fn() + Send>),
    Once(Cell<Option<Box<dyn FnOnce() + Send>>>),
}

/// A bottom half in memory.
pub(crate) struct BhNode {
    link: Link<BhNode>,
    flags: AtomicU32,
    name: &'static str,
    core: Arc<Core>,
    work: Work,
    /// Calls that have not returned, more than one with nested iterations. Home only.
    depth: Cell<u32>,
    /// Deleted while a call was running; freed when that returns. Home only.
    doomed: Cell<bool>,
}

// SAFETY: the link is a field.
unsafe impl Linked for BhNode {
    fn link(&self) -> &Link<BhNode> {
        &self.link
    }
}

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
pub struct Bh(NonNull<BhNode>);

// SAFETY: the node's callback is `Send`; everything a handle does to the node is atomic.
unsafe impl Send for Bh {}
// SAFETY: as above.
unsafe impl Sync for Bh {}

impl Bh {
    pub(crate) fn new(core: Arc<Core>, name: &'static str, callback: Box<dyn Fn() + Send>) -> Bh {
        let node = BhNode::boxed(core, name, Work::Repeat(callback), 0);
        // SAFETY: a box is never null.
        Bh(unsafe { NonNull::new_unchecked(Box::into_raw(node)) })
    }

    /// Runs the callback in the next iteration. Async-signal-safe.
    pub fn schedule(&self) {
        self.node().enqueue(SCHEDULED | URGENT);
    }

    /// Runs the callback when the context iterates anyway, at the latest after 10 ms. Async-signal-safe.
    pub fn schedule_idle(&self) {
        self.node().enqueue(SCHEDULED | IDLE);
    }

    /// Takes a schedule back, if the callback has not begun.
    pub fn cancel(&self) {
        self.node()
            .flags
            .fetch_and(!(SCHEDULED | IDLE | URGENT), Ordering::AcqRel);
    }

    fn node(&self) -> &BhNode {
        // SAFETY: invariant 1: the handle's node is allocated.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Bh {
    fn drop(&mut self) {
        let node = self.0.as_ptr();
        // The node may be freed by the home as soon as it is marked, so nothing of it is used after that.
        let core = Arc::clone(&self.node().core);
        self.cancel();
        if self
            .node()
            .flags
            .fetch_or(DELETED | QUEUED, Ordering::AcqRel)
            & QUEUED
            == 0
        {
            // SAFETY: this call has won QUEUED.
            unsafe { push(&core, node) };
        } else {
            core.kick(Urgency::Now);
        }
    }
}

impl fmt::Debug for Bh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bh").field(&self.node().name).finish()
    }
}

/// Queues a callback that runs once and has no handle. When the context has been torn down it is dropped uncalled.
pub(crate) fn schedule_oneshot(
    core: &Arc<Core>,
    name: &'static str,
    callback: Box<dyn FnOnce() + Send>,
) -> bool {
    let node = BhNode::boxed(
        Arc::clone(core),
        name,
        Work::Once(Cell::new(Some(callback))),
        QUEUED | SCHEDULED | URGENT | DELETED,
    );
    let node = Box::into_raw(node);
    // SAFETY: the fresh node is allocated and marked queued.
    let pushed = unsafe { core.bhs.push(node) };
    if pushed == Pushed::Closed {
        // SAFETY: a refused node is still ours.
        drop(unsafe { Box::from_raw(node) });
        return false;
    }
    if pushed == Pushed::First {
        core.kick(Urgency::Now);
    }
    true
}

impl BhNode {
    fn boxed(core: Arc<Core>, name: &'static str, work: Work, flags: u32) -> Box<BhNode> {
        Box::new(BhNode {
            link: Link::new(),
            flags: AtomicU32::new(flags),
            name,
            core,
            work,
            depth: Cell::new(0),
            doomed: Cell::new(false),
        })
    }

    /// True while the node waits to run.
    pub(crate) fn is_scheduled(&self) -> bool {
        self.flags.load(Ordering::Acquire) & SCHEDULED != 0
    }

    /// True while the node asks for an iteration now: scheduled and not idle, or waiting to be freed.
    pub(crate) fn is_urgent(&self) -> bool {
        urgency(self.flags.load(Ordering::Acquire)) == Urgency::Now
    }

    fn call(&self) {
        let name = Named(self.name);
        let result = match &self.work {
            Work::Repeat(callback) => unwind::guard(&name, callback),
            // A one-shot is queued once, so this is the only call.
            Work::Once(once) => unwind::guard(&name, || {
                if let Some(callback) = once.take() {
                    callback();
                }
            }),
        };
        if result.is_err() {
            self.flags.fetch_or(PANICKED, Ordering::AcqRel);
        }
    }

    /// Marks and queues a node whose handle is alive.
    fn enqueue(&self, set: u32) {
        let before = self.flags.fetch_or(set | QUEUED, Ordering::AcqRel);
        if before & QUEUED == 0 {
            // SAFETY: this call has won QUEUED (invariant 2); the handle keeps the node allocated.
            unsafe { push(&self.core, ptr::from_ref(self).cast_mut()) };
        } else if before & set != set {
            // It may lie idle or cancelled in the hands of a home that sleeps.
            self.core.kick(urgency(set));
        }
    }
}

fn urgency(flags: u32) -> Urgency {
    if flags & (DELETED | URGENT) != 0 {
        Urgency::Now
    } else {
        Urgency::Idle
    }
}

/// # Safety
/// The caller has won QUEUED of the node.
unsafe fn push(core: &Core, node: *mut BhNode) {
    // SAFETY: invariant 2 is the caller's; invariant 1 keeps the node allocated until it is taken.
    let flags = unsafe { &*node }.flags.load(Ordering::Relaxed);
    // SAFETY: as above. From here on the home may free the node.
    match unsafe { core.bhs.push(node) } {
        Pushed::First => core.kick(urgency(flags)),
        Pushed::Behind => {}
        // SAFETY: the list has refused the node.
        Pushed::Closed => unsafe { refused(node) },
    }
}

/// A torn-down context runs nothing: a deleted node is freed here, any other one stays with its handle.
///
/// # Safety
/// The caller has won QUEUED of the node and the list has refused it.
unsafe fn refused(node: *mut BhNode) {
    // SAFETY: the node is allocated (invariant 1).
    let flags = &unsafe { &*node }.flags;
    if flags.fetch_and(!QUEUED, Ordering::AcqRel) & DELETED != 0 {
        // SAFETY: deleted and in no list: nobody else has it.
        unsafe { free(node) };
    }
}

/// What became of a node taken from the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ran {
    /// A callback ran and counts as progress.
    Progress,
    /// An idle callback ran, or a node was freed or had been cancelled.
    Nothing,
}

/// Runs, frees or releases a taken node.
///
/// # Safety
/// The node was just taken from its list by the driving thread.
pub(crate) unsafe fn run(node: *mut BhNode) -> Ran {
    // SAFETY: a taken node is allocated (invariant 1).
    let flags = unsafe { &*node }
        .flags
        .fetch_and(!ONE_PASS, Ordering::AcqRel);
    // SAFETY: as above; this pass frees the node only below.
    let this = unsafe { &*node };
    if flags & DELETED != 0 {
        this.doomed.set(true);
    }
    let called = flags & (SCHEDULED | PANICKED) == SCHEDULED;
    if called {
        this.depth.set(this.depth.get() + 1);
        this.call();
        this.depth.set(this.depth.get() - 1);
    }
    if this.doomed.get() && this.depth.get() == 0 {
        // SAFETY: deleted and taken (invariant 1), and no call is running.
        unsafe { free(node) };
    }
    if called && flags & URGENT != 0 {
        Ran::Progress
    } else {
        Ran::Nothing
    }
}

/// Gives a node back at tear-down: a deleted one is freed uncalled, any other stays with its handle.
///
/// # Safety
/// The node was just taken from its list by the thread that tears the context down.
pub(crate) unsafe fn release(node: *mut BhNode) {
    // SAFETY: a taken node is allocated (invariant 1).
    let flags = unsafe { &*node }
        .flags
        .fetch_and(!ONE_PASS, Ordering::AcqRel);
    if flags & DELETED != 0 {
        // SAFETY: deleted and taken (invariant 1).
        unsafe { free(node) };
    }
}

/// # Safety
/// Nobody else can reach the node, and invariant 3 holds for the calling thread.
unsafe fn free(node: *mut BhNode) {
    // SAFETY: the node came from a box and this is its end.
    let node = unsafe { Box::from_raw(node) };
    unwind::drop_guarded(&Named(node.name), node);
}

struct Named(&'static str);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bottom half '{}'", self.0)
    }
}
