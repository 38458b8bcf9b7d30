//! The loop: the context's thread, and one iteration of a context.
//!
//! A threaded context is iterated by its own thread only; that is what [`ContextCore::run`] does. An unthreaded one is iterated
//! by its user's thread. A thread that iterates the GMainContext with GLib's functions, also from a callback of ours, serves the
//! reactor through the GSource that is attached there.
//!
//! # Invariants
//! 1. `CURRENT` points to what the innermost [`Running`] of the thread borrows, or is null.
#![allow(unsafe_code)] // thread attributes exist in C only; a thread-local pointer

use super::glib_side::GlibSide;
use super::{ContextCore, lock};
use crate::{Error, ErrorKind, Resource, Result, Wait};
use glib::MainContextAcquireGuard;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};

thread_local! {
    /// The context that runs this thread. It has no destructor, so atexit(3) handlers can ask for it as well: a thread that
    /// calls exit(3) inside a callback still runs its context.
    static CURRENT: Cell<*const ContextCore> = const { Cell::new(ptr::null()) };
}

/// The calling thread runs a context, until this is dropped.
pub(super) struct Running<'a> {
    outer: *const ContextCore,
    context: PhantomData<&'a Arc<ContextCore>>,
}

impl<'a> Running<'a> {
    pub(super) fn new(context: &'a Arc<ContextCore>) -> Running<'a> {
        Running {
            outer: CURRENT.replace(Arc::as_ptr(context)),
            context: PhantomData,
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        CURRENT.set(self.outer);
    }
}

/// The context that runs the calling thread.
pub(super) fn current() -> Option<Arc<ContextCore>> {
    let core = CURRENT.get();
    if core.is_null() {
        return None;
    }
    // SAFETY: invariant 1: it points into an Arc that is borrowed.
    unsafe { Arc::increment_strong_count(core) };
    // SAFETY: the count was added just now.
    Some(unsafe { Arc::from_raw(core) })
}

impl ContextCore {
    /// One iteration by the calling thread, also inside a callback of another iteration.
    pub(super) fn iterate(self: &Arc<Self>, wait: Wait) -> Result<bool> {
        let _owner = self.own()?;
        let glib_side = lock(&self.glib_side).take();
        match glib_side {
            Some(mut glib_side) => {
                let running = Running::new(self);
                let progress = glib_side.iterate(self, wait);
                drop(running);
                self.put_back(glib_side);
                progress
            }
            // The iteration around this one has it.
            None => Ok(self.gmain.iteration(wait == Wait::Block)),
        }
    }

    /// True when an iteration without waiting by the calling thread would dispatch something.
    pub(super) fn is_pending(&self) -> Result<bool> {
        let _owner = self.own()?;
        let glib_side = lock(&self.glib_side).take();
        let Some(mut glib_side) = glib_side else {
            // The iteration around this call has it.
            return Ok(self.gmain.pending());
        };
        let pending = glib_side.is_pending(self);
        self.put_back(glib_side);
        pending
    }

    /// Lets the calling thread iterate.
    fn own(&self) -> Result<MainContextAcquireGuard<'_>> {
        if self.stopping.load(Ordering::Acquire) && !self.threaded {
            return Err(self.closed());
        }
        self.gmain.acquire().map_err(|_| {
            let message = format!("another thread runs context '{}'", self.id);
            Error::new(ErrorKind::WrongThread, message)
        })
    }

    /// Gives back what an iteration has taken out, unless the context has ended meanwhile.
    fn put_back(&self, glib_side: GlibSide) {
        if !self.stopping.load(Ordering::Acquire) {
            *lock(&self.glib_side) = Some(glib_side);
        }
    }

    /// Starts the context's thread. The thread owns the GMainContext when this returns.
    pub(super) fn start(self: &Arc<Self>) -> Result<()> {
        let core = Arc::clone(self);
        let (started, is_started) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(self.id.clone())
            .spawn(move || core.run(&started))
            .map_err(|error| {
                let what = format!("cannot start the thread of context '{}'", self.id);
                Error::limited(what, error, Resource::Thread)
            })?;
        *lock(&self.thread) = Some(thread);
        is_started.recv().map_err(|_| self.closed())
    }

    /// The context's thread: owns the GMainContext and has it as thread default until the end.
    fn run(self: &Arc<Self>, started: &mpsc::SyncSender<()>) {
        let gmain = self.gmain.clone();
        let owned = gmain.with_thread_default(|| {
            if let Ok(driving) = self.reactor.drive() {
                make_timers_exact();
                self.thread_id.store(thread_id(), Ordering::Release);
                let running = Running::new(self);
                let _ = started.send(());
                self.iterate_until_stopped();
                self.forget_thread();
                self.tear_down();
                driving.release_thread();
                drop(running);
            }
        });
        debug_assert!(owned.is_ok(), "only this thread knows the GMainContext");
    }

    fn iterate_until_stopped(self: &Arc<Self>) {
        let Some(mut glib_side) = lock(&self.glib_side).take() else {
            return;
        };
        while !self.stopping.load(Ordering::Acquire) {
            if let Err(error) = glib_side.iterate(self, Wait::Block) {
                glib::g_critical!("qcontext", "context '{}' stops: {error}", self.id);
                return;
            }
        }
    }
}

/// Makes the kernel end the calling thread's waits in time. By default it may add 50 us to each (prctl(2), timer slack).
fn make_timers_exact() {
    const ONE_NS: libc::c_ulong = 1;
    // SAFETY: PR_SET_TIMERSLACK takes a number.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, ONE_NS) };
}

/// The kernel's id of the calling thread.
pub(super) fn thread_id() -> i64 {
    // SAFETY: no arguments.
    i64::from(unsafe { libc::gettid() })
}
