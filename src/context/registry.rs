//! All contexts, and their names.
//!
//! A context is here, and has its name if it was given one, until its last handle is dropped. A context that is kept (those
//! of `-object` are) stays until it is deleted.
//!
//! # Invariants
//! 1. A [`KnownContext`] belongs to one context. Changes and removal find it by that context's address, not by the name: the
//!    name may have passed to another context meanwhile.
//! 2. No handle is dropped while [`CONTEXTS`] is locked. The last handle of a context runs destructors, also those of users,
//!    and locks the registry to free the name.
#![forbid(unsafe_code)]

use super::{ContextCore, Handle, MAIN, QContext, lock};
use crate::{Error, ErrorKind, Result};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

struct KnownContext {
    /// Begins with `#` if it was generated. Then the context has no name.
    id: String,
    handle: Weak<Handle>,
    /// False while the context starts: the name is taken, but the context cannot be found.
    runs: bool,
    /// The handle that keeps the context until it is deleted.
    kept: Option<QContext>,
}

impl KnownContext {
    fn is_of(&self, handle: &Handle) -> bool {
        // The weak reference keeps the address from being used again.
        std::ptr::eq(self.handle.as_ptr(), handle)
    }

    fn is_named(&self) -> bool {
        !self.id.starts_with('#')
    }
}

/// In order of creation.
static CONTEXTS: Mutex<Vec<KnownContext>> = Mutex::new(Vec::new());
static MAIN_CONTEXT: OnceLock<QContext> = OnceLock::new();

/// Takes the id of a context that is about to start. Dropping the context's last handle frees it.
///
/// # Errors
/// `AlreadyExists`.
pub(super) fn reserve(context: &QContext) -> Result<()> {
    let id = context.id();
    let mut contexts = lock(&CONTEXTS);
    // A context without handles is about to free its name.
    let is_taken = |other: &KnownContext| other.id == id && other.handle.strong_count() > 0;
    if id == MAIN || contexts.iter().any(is_taken) {
        let message =
            format!("attempt to add duplicate property '{id}' to object (type 'container')");
        return Err(Error::new(ErrorKind::AlreadyExists, message));
    }
    contexts.push(KnownContext {
        id: id.to_owned(),
        handle: Arc::downgrade(&context.0),
        runs: false,
        kept: None,
    });
    drop(contexts);
    Ok(())
}

/// Lets a context, which runs now, be found.
pub(super) fn publish(context: &QContext) {
    if let Some(named) = find_mut(&mut lock(&CONTEXTS), context) {
        named.runs = true;
    }
}

/// Keeps a context until it is deleted. Does nothing if it has no name, or was deleted.
pub(super) fn keep(context: &QContext) {
    let mut kept = Some(context.clone());
    if let Some(known) = find_mut(&mut lock(&CONTEXTS), context)
        && known.is_named()
    {
        std::mem::swap(&mut known.kept, &mut kept);
    }
}

/// Made at the first call.
pub(super) fn main() -> QContext {
    MAIN_CONTEXT
        .get_or_init(|| {
            let core = ContextCore::main();
            QContext::wrap(core.expect("the main context needs a few fds at its first use"))
        })
        .clone()
}

pub(super) fn find(id: &str) -> Result<QContext> {
    if id == MAIN {
        return Ok(main());
    }
    let handle = lock(&CONTEXTS)
        .iter()
        .find(|known| known.is_named() && known.runs && known.id == id)
        .and_then(|named| named.handle.upgrade());
    handle
        .map(QContext)
        .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("context '{id}' not found")))
}

/// The context whose GMainContext the calling thread iterates with GLib's functions.
pub(super) fn owned_here() -> Option<QContext> {
    let is_owned = |context: &QContext| context.core().gmain.is_owner();
    let main = MAIN_CONTEXT.get().cloned();
    main.into_iter().chain(running(|_| true)).find(is_owned)
}

/// The context that wraps `gmain`.
pub(super) fn of_main_context(gmain: &glib::MainContext) -> Option<QContext> {
    if *gmain == glib::MainContext::default() {
        return Some(main());
    }
    let wraps = |context: &QContext| context.core().gmain == *gmain;
    running(|_| true).into_iter().find(wraps)
}

/// An id that users cannot choose.
pub(super) fn generate_id() -> String {
    static LAST: AtomicUsize = AtomicUsize::new(0);
    format!("#ctx{}", LAST.fetch_add(1, Ordering::Relaxed) + 1)
}

pub(super) fn list() -> Vec<QContext> {
    let named = running(KnownContext::is_named);
    std::iter::once(main()).chain(named).collect()
}

fn running(chosen: impl Fn(&KnownContext) -> bool) -> Vec<QContext> {
    lock(&CONTEXTS)
        .iter()
        .filter(|known| known.runs && chosen(known))
        .filter_map(|known| known.handle.upgrade())
        .map(QContext)
        .collect()
}

/// Takes the name away from a context, which lives on with its handles. False if it has none any more.
pub(super) fn remove(context: &QContext) -> bool {
    take(&context.0).is_some()
}

/// Frees the name of a context whose last handle is being dropped.
pub(super) fn forget(handle: &Handle) {
    drop(take(handle));
}

fn find_mut<'a>(
    contexts: &'a mut [KnownContext],
    context: &QContext,
) -> Option<&'a mut KnownContext> {
    contexts.iter_mut().find(|named| named.is_of(&context.0))
}

/// Takes the entry out. The caller drops it without the lock: invariant 2.
fn take(handle: &Handle) -> Option<KnownContext> {
    let mut contexts = lock(&CONTEXTS);
    let index = contexts.iter().position(|named| named.is_of(handle))?;
    Some(contexts.remove(index))
}

#[cfg(test)]
mod tests;
