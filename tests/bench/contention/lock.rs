//! The big lock: one mutex that the dispatch of every guarded source takes.
//!
//! A device's AioContext is attached as a plain GSource, whose table of functions is replaced by one that differs in
//! `dispatch` only. So the device, the context and GLib are those of the library, and none of them knows of the lock. As in
//! programs with such a lock, it is free while a thread waits for events.
//!
//! # Invariants
//! 1. The callback data of a guarded source is a reference to its lock, which GLib gives back with the source.
#![allow(unsafe_code)] // a GSource's table of functions is C

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::Instant;

use glib::translate::ToGlibPtr;
use glib_sys::{GSource, GSourceFunc, GSourceFuncs, gboolean, gpointer};

use super::Result;

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct BigLock {
    mutex: Mutex<()>,
    taken: AtomicU64,
    waited: AtomicU64,
    waited_ns: AtomicU64,
}

/// How often the lock was taken, so far or between two moments.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Takes {
    pub(crate) all: u64,
    /// Those that found the lock held.
    pub(crate) waits: u64,
    pub(crate) waited_ns: u64,
}

impl Takes {
    pub(crate) fn since(self, before: Takes) -> Takes {
        Takes {
            all: self.all - before.all,
            waits: self.waits - before.waits,
            waited_ns: self.waited_ns - before.waited_ns,
        }
    }
}

/// The table that the sources had, and the one that they get.
struct Tables {
    own: *const GSourceFuncs,
    plain: GSourceFuncs,
    guarded: GSourceFuncs,
}

// SAFETY: the pointer is compared only; the tables hold functions.
unsafe impl Send for Tables {}
// SAFETY: as above.
unsafe impl Sync for Tables {}

static TABLES: OnceLock<Tables> = OnceLock::new();

impl BigLock {
    pub(crate) fn takes(&self) -> Takes {
        Takes {
            all: self.taken.load(Ordering::Relaxed),
            waits: self.waited.load(Ordering::Relaxed),
            waited_ns: self.waited_ns.load(Ordering::Relaxed),
        }
    }

    /// Makes every dispatch of a source, which is not attached yet, take the lock.
    pub(crate) fn guard(self: &Arc<Self>, source: &glib::Source) -> Result<()> {
        let source: *mut GSource = source.to_glib_none().0;
        // SAFETY: the caller has a reference to the source.
        let own = unsafe { (*source).source_funcs };
        let tables = TABLES.get_or_init(|| {
            // SAFETY: the table lives as long as the source at least; it is copied.
            let plain = unsafe { *own };
            Tables {
                own,
                plain,
                guarded: GSourceFuncs {
                    dispatch: Some(dispatch),
                    ..plain
                },
            }
        });
        if own != tables.own {
            return Err("only the sources of AioContexts can be guarded".into());
        }
        let lock = Arc::into_raw(Arc::clone(self)).cast_mut().cast();
        // SAFETY: the source takes the reference over (invariant 1). It has no callback of its own: `plain` ignores them.
        unsafe { glib_sys::g_source_set_callback(source, None, lock, Some(release)) };
        // SAFETY: the source is attached nowhere, and the table lives for ever; GLib does not write to it.
        unsafe { glib_sys::g_source_set_funcs(source, (&raw const tables.guarded).cast_mut()) };
        Ok(())
    }

    fn take(&self) -> MutexGuard<'_, ()> {
        self.taken.fetch_add(1, Ordering::Relaxed);
        match self.mutex.try_lock() {
            Ok(held) => return held,
            Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {}
        }
        let begin = Instant::now();
        let held = self.mutex.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.waited.fetch_add(1, Ordering::Relaxed);
        self.waited_ns.fetch_add(waited, Ordering::Relaxed);
        held
    }
}

unsafe extern "C" fn release(lock: gpointer) {
    // SAFETY: the reference that the source had (invariant 1).
    drop(unsafe { Arc::from_raw(lock.cast::<BigLock>().cast_const()) });
}

unsafe extern "C" fn dispatch(
    source: *mut GSource,
    callback: GSourceFunc,
    lock: gpointer,
) -> gboolean {
    let own = TABLES.get().and_then(|tables| tables.plain.dispatch);
    let Some(own) = own else {
        return glib_sys::G_SOURCE_REMOVE;
    };
    // SAFETY: invariant 1; GLib holds the callback data during the call.
    let held = unsafe { &*lock.cast::<BigLock>() }.take();
    // SAFETY: GLib's own arguments, for the function that they were meant for.
    let goes_on = unsafe { own(source, callback, lock) };
    drop(held);
    goes_on
}
