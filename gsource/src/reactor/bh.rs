//! A bottom half in memory: the head, which the lists link, and the callback behind it, in one allocation.
#![allow(unsafe_code)] // heads are reached by raw pointers that know the whole

pub(crate) mod flags;

use super::home_queue::Chained;
use super::tenant::Tenant;
use crate::list::{Link, Linked};
use crate::panic_boundary::{self, Panicked};
use crate::sync::{AtomicPtr, Life};
use flags::Flags;
use std::cell::Cell;
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// The head of a bottom half.
pub(crate) struct BhNode {
    link: Link<BhNode>,
    next: AtomicPtr<BhNode>,
    pub(crate) life: Life,
    pub(crate) flags: Flags,
    pub(crate) name: &'static str,
    tenant: *const Tenant,
    vtable: &'static BhVtable,
    /// Calls that have not returned, more than one with nested iterations. Home only.
    depth: Cell<u32>,
    /// Deleted during a call. Home only.
    deleted_in_call: Cell<bool>,
}

// SAFETY: the link is a field.
unsafe impl Linked for BhNode {
    fn link(&self) -> &Link<BhNode> {
        &self.link
    }
}

// SAFETY: the place is a field.
unsafe impl Chained for BhNode {
    fn next(&self) -> &AtomicPtr<BhNode> {
        &self.next
    }
}

/// What depends on the callback's type.
struct BhVtable {
    call: unsafe fn(NonNull<BhNode>) -> Result<(), Panicked>,
    free: unsafe fn(NonNull<BhNode>),
}

/// A callback as a node holds it.
pub(crate) trait BhCallback {
    fn run(&self);
}

/// A callback that runs as often as it is scheduled.
pub(crate) struct RunRepeatedly<F>(pub(crate) F);

impl<F: Fn()> BhCallback for RunRepeatedly<F> {
    fn run(&self) {
        (self.0)();
    }
}

/// A callback that runs once.
pub(super) struct RunOnce<F>(Cell<Option<F>>);

impl<F: FnOnce()> RunOnce<F> {
    pub(super) fn new(callback: F) -> RunOnce<F> {
        RunOnce(Cell::new(Some(callback)))
    }
}

impl<F: FnOnce()> BhCallback for RunOnce<F> {
    fn run(&self) {
        if let Some(callback) = self.0.take() {
            callback();
        }
    }
}

/// A head and its callback.
#[repr(C)]
struct BhWithCallback<C> {
    head: BhNode,
    callback: C,
}

impl BhNode {
    pub(crate) fn boxed<C: BhCallback + 'static>(
        tenant: &Arc<Tenant>,
        name: &'static str,
        callback: C,
    ) -> NonNull<BhNode> {
        let head = BhNode {
            link: Link::new(),
            next: AtomicPtr::new(ptr::null_mut()),
            life: Life::new(),
            flags: Flags::new(),
            name,
            tenant: Arc::as_ptr(tenant),
            vtable: const {
                &BhVtable {
                    call: call::<C>,
                    free: free_whole::<C>,
                }
            },
            depth: Cell::new(0),
            deleted_in_call: Cell::new(false),
        };
        let whole = Box::new(BhWithCallback { head, callback });
        // SAFETY: a box is never null.
        unsafe { NonNull::new_unchecked(Box::into_raw(whole).cast()) }
    }

    /// Notes that it is being deleted. On the home.
    pub(super) fn note_deletion(&self) {
        self.deleted_in_call.set(self.depth.get() > 0);
    }

    /// True if it was deleted during a call. On the home.
    pub(super) fn is_deleted_in_call(&self) -> bool {
        self.deleted_in_call.get()
    }

    /// True for a bottom half of `tenant`.
    pub(crate) fn is_of(&self, tenant: &Tenant) -> bool {
        ptr::eq(self.tenant, tenant)
    }
}

/// # Safety
/// `node` came from [`BhNode::boxed`] with this type and is allocated; the calling thread drives its context.
unsafe fn call<C: BhCallback>(node: NonNull<BhNode>) -> Result<(), Panicked> {
    // SAFETY: the head of a whole is its first field.
    let whole = unsafe { node.cast::<BhWithCallback<C>>().as_ref() };
    panic_boundary::guard(&Named(whole.head.name), || whole.callback.run())
}

/// # Safety
/// As for `call`, and no other code uses the node any more.
unsafe fn free_whole<C>(node: NonNull<BhNode>) {
    // SAFETY: the whole came from a box and this is its end.
    let whole = unsafe { Box::from_raw(node.cast::<BhWithCallback<C>>().as_ptr()) };
    panic_boundary::drop_guarded(&Named(whole.head.name), whole);
}

/// Calls the node, which was taken from the queue and said that it wants to be.
///
/// # Safety
/// The calling thread drives the node's context, on whose home's queue the node was.
#[inline]
pub(crate) unsafe fn run(node: NonNull<BhNode>) -> Result<(), Panicked> {
    // SAFETY: the node is allocated at least until its call has returned: `depth` says that it runs.
    let head = unsafe { node.as_ref() };
    // SAFETY: a context does not end while one of its bottom halves runs.
    let tenant = unsafe { &*head.tenant };
    head.depth.set(head.depth.get() + 1);
    // SAFETY: the vtable is that of the node.
    let result = tenant.during_call(|| unsafe { (head.vtable.call)(node) });
    head.depth.set(head.depth.get() - 1);
    result
}

/// Frees the node if its handle is gone and it is on no list.
///
/// # Safety
/// The calling thread drives the node's context, and has just taken the node from the queue or returned from its call.
#[inline]
pub(crate) unsafe fn free_if_done(node: NonNull<BhNode>) {
    // SAFETY: it was not freed, because its turn has not ended.
    let head = unsafe { node.as_ref() };
    if head.flags.is_done() && head.depth.get() == 0 {
        // SAFETY: no handle, no list, no call.
        unsafe { free(node) };
    }
}

/// # Safety
/// No other code can reach the node, and the calling thread may drop its callback.
unsafe fn free(node: NonNull<BhNode>) {
    // SAFETY: the caller's promise.
    let vtable = unsafe { node.as_ref() }.vtable;
    // SAFETY: the vtable is that of the node.
    unsafe { (vtable.free)(node) };
}

/// A torn-down context runs nothing: a node without a handle is freed here, any other one stays with its handle.
///
/// # Safety
/// The list of the node's context has refused it.
pub(crate) unsafe fn refused(node: NonNull<BhNode>) {
    // SAFETY: the node is allocated: it is in no list, and its handle, if any, is the caller's.
    if unsafe { node.as_ref() }.flags.refuse() {
        // SAFETY: the home gave back what its queue held before it closed the list, and is done with what was on that.
        unsafe { free(node) };
    }
}

/// Gives a node back at the end of its context: one without a handle is freed uncalled, any other stays with its handle.
///
/// # Safety
/// The node was just taken from the queue by the thread that tears the context down, and no call of it is running.
pub(crate) unsafe fn release(node: NonNull<BhNode>) {
    // SAFETY: a queued node is allocated.
    if unsafe { node.as_ref() }.flags.release() {
        // SAFETY: no handle and no list.
        unsafe { free(node) };
    }
}

/// Gives a node back at the end of its context, as [`release`] does.
///
/// # Safety
/// The node was just taken from the closed remote list by the thread that tears the context down.
pub(crate) unsafe fn end(node: NonNull<BhNode>) {
    // SAFETY: a node on that list is allocated, and its handle leaves it alone until it is marked as taken.
    if unsafe { node.as_ref() }.flags.end() {
        // SAFETY: no handle and no list.
        unsafe { free(node) };
    }
}

struct Named(&'static str);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bottom half '{}'", self.0)
    }
}
