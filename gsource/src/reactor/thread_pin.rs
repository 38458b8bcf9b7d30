//! What binds a reactor to the thread of its tasks.
//!
//! # Invariants
//! 1. Counts rise under the right to drive and fall on the thread that has raised them. So while they are above 0, `thread`
//!    names that thread, and nobody else drives.
#![forbid(unsafe_code)]

use super::thread_token;
use crate::sync::{AtomicUsize, Ordering};

/// The tasks of a reactor.
#[derive(Default)]
pub(crate) struct ThreadPin {
    /// The thread they are on, 0 without tasks.
    thread: AtomicUsize,
    count: AtomicUsize,
    /// The thread that iterates the GMainContext of the reactor's source: while GLib waits, nobody drives. 0 without one.
    glib: AtomicUsize,
}

impl ThreadPin {
    /// True when they are on another thread than `thread`.
    pub(crate) fn are_elsewhere(&self, thread: usize) -> bool {
        let there = self.thread.load(Ordering::SeqCst);
        there != 0 && there != thread
    }

    /// The calling thread serves the reactor's source.
    pub(crate) fn note_glib(&self) {
        self.glib.store(thread_token(), Ordering::Relaxed);
    }

    /// The reactor's source is gone.
    pub(crate) fn forget_glib(&self) {
        self.glib.store(0, Ordering::Relaxed);
    }

    /// True when GLib waits on another thread, or will again.
    pub(crate) fn wait_elsewhere(&self) -> bool {
        let there = self.glib.load(Ordering::Relaxed);
        there != 0 && there != thread_token()
    }

    pub(crate) fn enter(&self, thread: usize) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.thread.store(thread, Ordering::SeqCst);
    }

    /// True when that was the last one.
    pub(crate) fn leave(&self) -> bool {
        let is_last = self.count.fetch_sub(1, Ordering::SeqCst) == 1;
        if is_last {
            self.thread.store(0, Ordering::SeqCst);
        }
        is_last
    }
}
