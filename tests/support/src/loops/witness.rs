//! Witnesses of what callbacks do: how often, in which order, and on which thread they were dropped.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

/// Counts calls.
#[derive(Clone, Default)]
pub struct Count(Arc<AtomicUsize>);

impl Count {
    pub fn new() -> Count {
        Count::default()
    }

    pub fn hit(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// A callback that counts.
    pub fn hitter(&self) -> impl Fn() + Send + Sync + 'static {
        let count = self.clone();
        move || {
            count.hit();
        }
    }
}

/// A journal of what happened in which order.
#[derive(Clone, Default)]
pub struct Journal(Arc<Mutex<Vec<String>>>);

impl Journal {
    pub fn new() -> Journal {
        Journal::default()
    }

    pub fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    /// A callback that notes `what`.
    pub fn noter(&self, what: &'static str) -> impl Fn() + Send + Sync + 'static {
        let journal = self.clone();
        move || journal.note(what)
    }

    pub fn text(&self) -> String {
        self.0.lock().unwrap().join(" ")
    }
}

/// Tells when and on which thread its [`DropProbe`] half was dropped.
pub struct Drops(Receiver<ThreadId>);

/// To be moved into a callback: its drop is the callback's destroy notify.
pub struct DropProbe(Sender<ThreadId>);

impl Drop for DropProbe {
    fn drop(&mut self) {
        let _ = self.0.send(std::thread::current().id());
    }
}

impl DropProbe {
    /// Uses the value, so that a closure captures it.
    pub fn touch(&self) {}
}

pub fn drop_probe() -> (DropProbe, Drops) {
    let (send, receive) = channel();
    (DropProbe(send), Drops(receive))
}

impl Drops {
    /// The threads of the drops so far.
    pub fn threads(&self) -> Vec<ThreadId> {
        self.0.try_iter().collect()
    }

    /// Waits for the drop and tells its thread.
    pub fn wait(&self) -> ThreadId {
        self.0.recv().unwrap()
    }
}

/// Something a callback can be made to drop, or to put there, later.
pub struct Slot<T>(Arc<Mutex<Option<T>>>);

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Slot(Arc::clone(&self.0))
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Slot::new()
    }
}

impl<T> Slot<T> {
    pub fn new() -> Slot<T> {
        Slot(Arc::new(Mutex::new(None)))
    }

    pub fn put(&self, value: T) {
        let earlier = self.0.lock().unwrap().replace(value);
        drop(earlier);
    }

    /// Takes the value out; dropping it is the caller's.
    pub fn take(&self) -> Option<T> {
        self.0.lock().unwrap().take()
    }

    pub fn with<R>(&self, use_it: impl FnOnce(&T) -> R) -> R {
        use_it(self.0.lock().unwrap().as_ref().unwrap())
    }
}
