//! The names of contexts.
//!
//! A name lasts as long as its context: until the last handle goes, or, for contexts that are kept (those made by `-object`),
//! until they are deleted.
//!
//! # Invariants
//! 1. An entry belongs to one context, and is found and removed by that context's address, never by the name alone: another
//!    context may have taken the name meanwhile.
//! 2. No handle is dropped while [`ENTRIES`] is locked. The last handle of a context runs destructors, also those of users,
//!    and comes back here to free the name.
#![forbid(unsafe_code)]

use super::{Handle, Inner, MAIN, QContext, lock};
use crate::{Error, ErrorKind, Poller, Result};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

struct Entry {
    id: String,
    handle: Weak<Handle>,
    /// False while the context starts: its name is taken, but nobody finds it.
    runs: bool,
    kept: Option<QContext>,
}

impl Entry {
    fn is_of(&self, handle: &Handle) -> bool {
        // The entry's weak reference keeps the address from being used again.
        std::ptr::eq(self.handle.as_ptr(), handle)
    }
}

static ENTRIES: Mutex<Vec<Entry>> = Mutex::new(Vec::new());
static MAIN_CONTEXT: OnceLock<QContext> = OnceLock::new();

/// Takes the name of a context that is about to start. It is free again when the context's last handle goes.
///
/// # Errors
/// `AlreadyExists`.
pub(super) fn reserve(context: &QContext) -> Result<()> {
    let id = context.id();
    let mut entries = lock(&ENTRIES);
    // A context without handles is about to free its name.
    let is_taken = |entry: &Entry| entry.id == id && entry.handle.strong_count() > 0;
    if id == MAIN || entries.iter().any(is_taken) {
        let message =
            format!("attempt to add duplicate property '{id}' to object (type 'container')");
        return Err(Error::new(ErrorKind::AlreadyExists, message));
    }
    entries.push(Entry {
        id: id.to_owned(),
        handle: Arc::downgrade(&context.0),
        runs: false,
        kept: None,
    });
    drop(entries);
    Ok(())
}

/// Lets a context, which runs now, be found by the name that was reserved for it.
pub(super) fn publish(context: &QContext) {
    if let Some(entry) = entry_of(&mut lock(&ENTRIES), context) {
        entry.runs = true;
    }
}

/// Keeps a context until it is deleted. Without effect on one that has no name, or was deleted.
pub(super) fn keep(context: &QContext) {
    let mut kept = Some(context.clone());
    if let Some(entry) = entry_of(&mut lock(&ENTRIES), context) {
        std::mem::swap(&mut entry.kept, &mut kept);
    }
}

pub(super) fn main() -> QContext {
    MAIN_CONTEXT
        .get_or_init(|| {
            let inner = Inner::new(MAIN, false, Poller::Epoll, glib::MainContext::default())
                .expect("the main context takes four fds, and a process without them cannot run");
            inner
                .thread_id
                .store(i64::from(std::process::id()), Ordering::Release);
            QContext::wrap(inner)
        })
        .clone()
}

pub(super) fn find(id: &str) -> Result<QContext> {
    if id == MAIN {
        return Ok(main());
    }
    let handle = lock(&ENTRIES)
        .iter()
        .find(|entry| entry.runs && entry.id == id)
        .and_then(|entry| entry.handle.upgrade());
    handle
        .map(QContext)
        .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("context '{id}' not found")))
}

/// The context whose GMainContext the calling thread iterates by itself.
pub(super) fn owned_here() -> Option<QContext> {
    let is_owned = |context: &QContext| context.inner().gmain.is_owner();
    let main = MAIN_CONTEXT.get().cloned();
    main.into_iter().chain(named()).find(is_owned)
}

/// An id that no user can give.
pub(super) fn generate_id() -> String {
    static LAST: AtomicUsize = AtomicUsize::new(0);
    format!("#ctx{}", LAST.fetch_add(1, Ordering::Relaxed) + 1)
}

pub(super) fn list() -> Vec<QContext> {
    std::iter::once(main()).chain(named()).collect()
}

/// The contexts that somebody has named, in order of creation.
fn named() -> Vec<QContext> {
    lock(&ENTRIES)
        .iter()
        .filter(|entry| entry.runs)
        .filter_map(|entry| entry.handle.upgrade())
        .map(QContext)
        .collect()
}

/// Takes the name away from a context, which lives on with its handles. False if it has none, or not any more.
pub(super) fn remove(context: &QContext) -> bool {
    take(&context.0).is_some()
}

/// Frees the name of a context whose last handle is going.
pub(super) fn forget(handle: &Handle) {
    drop(take(handle));
}

fn entry_of<'a>(entries: &'a mut [Entry], context: &QContext) -> Option<&'a mut Entry> {
    entries.iter_mut().find(|entry| entry.is_of(&context.0))
}

/// Takes the entry out, to be dropped without the lock: its handle may be the last, which ends the context.
fn take(handle: &Handle) -> Option<Entry> {
    let mut entries = lock(&ENTRIES);
    let index = entries.iter().position(|entry| entry.is_of(handle))?;
    Some(entries.remove(index))
}

#[cfg(test)]
mod tests;
