//! The names of contexts.
//!
//! A name lasts as long as its context: until the last handle goes, or, for contexts that are kept (those made by `-object`),
//! until they are deleted.
#![forbid(unsafe_code)]

use super::{Handle, Inner, MAIN, QContext, lock};
use crate::{Error, ErrorKind, Poller, Result};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

struct Entry {
    id: String,
    handle: Weak<Handle>,
    kept: Option<QContext>,
}

static ENTRIES: Mutex<Vec<Entry>> = Mutex::new(Vec::new());
static MAIN_CONTEXT: OnceLock<QContext> = OnceLock::new();

/// Adds a fresh context under its id.
pub(super) fn insert(context: &QContext) -> Result<()> {
    let id = context.id();
    let mut entries = lock(&ENTRIES);
    if id == MAIN || entries.iter().any(|entry| entry.id == id) {
        let message =
            format!("attempt to add duplicate property '{id}' to object (type 'container')");
        return Err(Error::new(ErrorKind::AlreadyExists, message));
    }
    entries.push(Entry {
        id: id.to_owned(),
        handle: Arc::downgrade(&context.0),
        kept: None,
    });
    drop(entries);
    Ok(())
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
        .find(|entry| entry.id == id)
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
        .filter_map(|entry| entry.handle.upgrade())
        .map(QContext)
        .collect()
}

pub(super) fn keep(context: &QContext) {
    if let Some(entry) = lock(&ENTRIES)
        .iter_mut()
        .find(|entry| entry.id == context.id())
    {
        entry.kept = Some(context.clone());
    }
}

/// Forgets the name; the context itself lives on with its handles.
pub(super) fn remove(id: &str) {
    let mut entries = lock(&ENTRIES);
    let entry = entries
        .iter()
        .position(|entry| entry.id == id)
        .map(|index| entries.remove(index));
    drop(entries);
    // Dropped without the lock: the last handle ends the context.
    drop(entry);
}

/// Forgets the name of a context whose last handle is going, unless another context has taken it.
pub(super) fn forget(inner: &Arc<Inner>) {
    let mut entries = lock(&ENTRIES);
    entries.retain(|entry| entry.id != inner.id || entry.handle.strong_count() > 0);
}
