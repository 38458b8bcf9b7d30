//! The big lock: one mutex that the dispatch of every guarded source takes.
//!
//! A device's AioContext is attached as a plain GSource, whose table of functions is replaced by one that differs in
//! `dispatch` only. So the device, the context and GLib are those of the library, and none of them knows of the lock. As in
//! programs with such a lock, it is free while a thread waits for events.
#![allow(unsafe_code)] // a GSource's table of functions is C

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::Instant;

use glib::translate::ToGlibPtr;
use glib_sys::{GSource, GSourceFunc, GSourceFuncs, gboolean, gpointer};

use super::Result;

static BIG_LOCK: Mutex<()> = Mutex::new(());
static TAKEN: AtomicU64 = AtomicU64::new(0);
static WAITED: AtomicU64 = AtomicU64::new(0);
static WAITED_NS: AtomicU64 = AtomicU64::new(0);

/// How often the lock was taken, so far or between two moments.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Takes {
    pub(crate) all: u64,
    /// Those that found the lock held.
    pub(crate) waits: u64,
    pub(crate) waited_ns: u64,
}

impl Takes {
    pub(crate) fn now() -> Takes {
        Takes {
            all: TAKEN.load(Ordering::Relaxed),
            waits: WAITED.load(Ordering::Relaxed),
            waited_ns: WAITED_NS.load(Ordering::Relaxed),
        }
    }

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

/// Makes every dispatch of a source, which is not attached yet, take the lock.
pub(crate) fn guard(source: &glib::Source) -> Result<()> {
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
    // SAFETY: the source is attached nowhere, and the table lives for ever; GLib does not write to it.
    unsafe { glib_sys::g_source_set_funcs(source, (&raw const tables.guarded).cast_mut()) };
    Ok(())
}

unsafe extern "C" fn dispatch(
    source: *mut GSource,
    callback: GSourceFunc,
    data: gpointer,
) -> gboolean {
    let own = TABLES.get().and_then(|tables| tables.plain.dispatch);
    let Some(own) = own else {
        return glib_sys::G_SOURCE_REMOVE;
    };
    let held = take();
    // SAFETY: GLib's own arguments, for the function that they were meant for.
    let goes_on = unsafe { own(source, callback, data) };
    drop(held);
    goes_on
}

fn take() -> MutexGuard<'static, ()> {
    TAKEN.fetch_add(1, Ordering::Relaxed);
    match BIG_LOCK.try_lock() {
        Ok(held) => return held,
        Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => {}
    }
    let begin = Instant::now();
    let held = BIG_LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let waited = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
    WAITED.fetch_add(1, Ordering::Relaxed);
    WAITED_NS.fetch_add(waited, Ordering::Relaxed);
    held
}
