//! The thread's end of a context: the loop, and how GLib is asked.
//!
//! Two speeds. The reactor is served directly, with one wait for everything. GLib's prepare, query, check and dispatch are
//! added when foreign GSources may be there: since one was attached through us, or since GLib's own wake-up fd fired (our
//! GMainContexts carry OWNERLESS_POLLING, so every change to them does that). GLib's fds stand in an epoll set of their own
//! inside the reactor's, so an idle foreign source costs no system call. GLib is asked before each wait that could block;
//! while the reactor has something to do at each turn, every 16th turn and at each clock tick.
//!
//! Whoever else iterates the GMainContext, also a callback of ours, reaches the reactor through its GSource.
#![allow(unsafe_code)] // g_main_context_prepare and its companions exist in C only

use super::glib_fds::GlibFds;
use super::{Inner, lock};
use crate::{AioContext, Error, ErrorKind, Result, Wait};
use glib::translate::{ToGlibPtr, from_glib_full};
use gsource::{Clock, Poller, Reactor, last_tick_ns};
use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};

/// How many turns with something to do may follow each other without a look at GLib.
const PUT_OFFS: u32 = 15;

thread_local! {
    /// The context that runs this thread.
    static CURRENT: RefCell<Option<Arc<Inner>>> = const { RefCell::new(None) };
}

/// The context that runs the calling thread.
pub(super) fn current() -> Option<Arc<Inner>> {
    CURRENT.with_borrow(Clone::clone)
}

/// A GMainContext each change to which signals its wake-up fd, also one made by its owner.
fn new_main_context() -> glib::MainContext {
    let flags = glib_sys::G_MAIN_CONTEXT_FLAGS_OWNERLESS_POLLING;
    // SAFETY: takes no pointers.
    let context = unsafe { glib_sys::g_main_context_new_with_flags(flags) };
    // SAFETY: the fresh context's reference is ours.
    unsafe { from_glib_full(context) }
}

/// GLib's side of a loop.
pub(super) struct Home {
    glib: GlibFds,
    fds: Vec<glib_sys::GPollFD>,
    /// Turns since GLib was last asked, and the clock tick at that time.
    put_offs: u32,
    asked_at: i64,
    /// See [`Reactor::glib_turns`].
    glib_turns: usize,
}

// SAFETY: the pollfds are plain numbers.
unsafe impl Send for Home {}

/// What GLib's prepare and query said.
struct Prepared {
    ready: bool,
    priority: i32,
    /// Nanoseconds until a source of GLib's is due.
    timeout_ns: Option<i64>,
}

impl Home {
    /// Asks GLib nothing yet: that would run foreign prepare functions while the context is being made.
    pub(super) fn new(reactor: &Reactor, aio: &AioContext) -> Result<Home> {
        Ok(Home {
            glib: GlibFds::new(aio, reactor.poll_fd()?)?,
            fds: Vec::new(),
            put_offs: 0,
            asked_at: 0,
            glib_turns: reactor.glib_turns(),
        })
    }

    /// Asks GLib what it waits for, and watches that.
    fn prepare(&mut self, gmain: &glib::MainContext) -> Prepared {
        let gmain = gmain.to_glib_none().0;
        let mut priority = 0;
        // SAFETY: the calling thread owns the context.
        let ready = unsafe { glib_sys::g_main_context_prepare(gmain, &raw mut priority) } != 0;
        let timeout_ms = self.query(gmain, priority);
        self.glib.watch(&self.fds);
        let timeout_ns = u32::try_from(timeout_ms)
            .ok()
            .map(|ms| i64::from(ms) * 1_000_000);
        Prepared {
            ready: ready || timeout_ns == Some(0),
            priority,
            timeout_ns,
        }
    }

    /// Fills `fds`; the timeout in milliseconds, negative for none.
    fn query(&mut self, gmain: *mut glib_sys::GMainContext, priority: i32) -> i32 {
        loop {
            let mut timeout = -1;
            let room = i32::try_from(self.fds.len()).unwrap_or(i32::MAX);
            // SAFETY: the calling thread owns the context, and `fds` has `room` entries.
            let needed = unsafe {
                glib_sys::g_main_context_query(
                    gmain,
                    priority,
                    &raw mut timeout,
                    self.fds.as_mut_ptr(),
                    room,
                )
            };
            let needed = usize::try_from(needed).unwrap_or(0);
            let fits = needed <= self.fds.len();
            self.fds.resize(
                needed,
                glib_sys::GPollFD {
                    fd: -1,
                    events: 0,
                    revents: 0,
                },
            );
            if fits {
                return timeout;
            }
        }
    }

    /// Polls GLib's fds without waiting; true when something is to be dispatched.
    fn check(&mut self, inner: &Inner, prepared: &Prepared) -> bool {
        self.glib.poll_now(&mut self.fds);
        // We serve the reactor ourselves; GLib would dispatch its source for a ready fd alone.
        self.glib.show_own(&mut self.fds, 0);
        let gmain = inner.gmain.to_glib_none().0;
        let count = i32::try_from(self.fds.len()).unwrap_or(i32::MAX);
        let Ok(driving) = inner.reactor.drive() else {
            return false;
        };
        let fds = self.fds.as_mut_ptr();
        // SAFETY: the calling thread owns the context; the fds are those of its query.
        let check =
            || unsafe { glib_sys::g_main_context_check(gmain, prepared.priority, fds, count) } != 0;
        inner.reactor.ask_glib(&driving, check)
    }

    /// Polls GLib's fds without waiting and dispatches what is ready.
    fn check_and_dispatch(&mut self, inner: &Inner, prepared: &Prepared) -> bool {
        let ready = self.check(inner, prepared);
        if ready {
            // SAFETY: the calling thread owns the context and has checked it.
            unsafe { glib_sys::g_main_context_dispatch(inner.gmain.to_glib_none().0) };
        }
        ready
    }

    /// One iteration; see the module for its two speeds.
    fn iterate(&mut self, inner: &Inner, wait: Wait) -> Result<bool> {
        self.note_others(inner);
        if !inner.foreign.load(Ordering::Acquire) {
            let progress = inner.reactor.iterate(wait)?;
            if !self.glib.take_woken() {
                return Ok(progress);
            }
            inner.foreign.store(true, Ordering::Release);
            let prepared = self.ask(inner)?;
            return Ok(self.check_and_dispatch(inner, &prepared) | progress);
        }
        if wait == Wait::Block && self.may_put_off_asking() {
            let progress = inner.reactor.iterate_if_ready()?;
            if progress.is_some() && !self.glib.is_woken() {
                return Ok(progress == Some(true));
            }
        }
        let prepared = self.ask(inner)?;
        let wait = if prepared.ready || self.glib.is_woken() {
            Wait::NoBlock
        } else {
            wait
        };
        let due = prepared
            .timeout_ns
            .map(|timeout| Clock::Realtime.now_ns() + timeout);
        let mut progress = inner.reactor.iterate_for(wait, prepared.timeout_ns)?;
        let late = due.is_some_and(|due| Clock::Realtime.now_ns() >= due);
        let woken = self.glib.take_woken();
        if woken || prepared.ready || late {
            progress |= self.check_and_dispatch(inner, &prepared);
        }
        self.glib.judge(inner, woken, &self.fds);
        Ok(progress)
    }

    /// Whoever has iterated the GMainContext since may have been told of a source that we have not seen.
    fn note_others(&mut self, inner: &Inner) {
        let turns = inner.reactor.glib_turns();
        if self.glib_turns != turns {
            self.glib_turns = turns;
            self.glib.distrust();
            inner.foreign.store(true, Ordering::Release);
        }
    }

    /// True while foreign sources can wait, if the reactor has something to do: for [`PUT_OFFS`] turns, and not past the next
    /// clock tick.
    fn may_put_off_asking(&mut self) -> bool {
        self.put_offs += 1;
        self.put_offs <= PUT_OFFS && self.asked_at == last_tick_ns()
    }

    fn ask(&mut self, inner: &Inner) -> Result<Prepared> {
        self.put_offs = 0;
        self.asked_at = last_tick_ns();
        let driving = inner.reactor.drive()?;
        Ok(inner
            .reactor
            .ask_glib(&driving, || self.prepare(&inner.gmain)))
    }
}

impl Inner {
    /// One iteration by the calling thread, nested or not.
    pub(super) fn iterate(self: &Arc<Self>, wait: Wait) -> Result<bool> {
        if self.stopping.load(Ordering::Acquire) && !self.threaded {
            return Err(self.closed());
        }
        let Ok(_owner) = self.gmain.acquire() else {
            let message = format!("another thread runs context '{}'", self.id);
            return Err(Error::new(ErrorKind::WrongThread, message));
        };
        let home = lock(&self.home).take();
        match home {
            Some(mut home) => {
                let outer = CURRENT.replace(Some(Arc::clone(self)));
                let progress = home.iterate(self, wait);
                CURRENT.set(outer);
                if !self.stopping.load(Ordering::Acquire) {
                    *lock(&self.home) = Some(home);
                }
                progress
            }
            // Inside another iteration, which holds GLib's side.
            None => Ok(self.gmain.iteration(wait == Wait::Block)),
        }
    }

    /// The inside of a new context with a GMainContext of its own.
    pub(super) fn fresh(id: &str, threaded: bool, poller: Poller) -> Result<Arc<Inner>> {
        let inner = Inner::new(id, threaded, poller, new_main_context())?;
        inner.settle()?;
        Ok(inner)
    }

    /// Takes back the wake-up that the attaching of our own source has caused. For a GMainContext that nobody else knows yet.
    fn settle(&self) -> Result<()> {
        if let (Some(home), Ok(_owner)) = (lock(&self.home).as_mut(), self.gmain.acquire()) {
            let prepared = home.ask(self)?;
            home.check(self, &prepared);
            home.glib.learn_wake_fd();
        }
        Ok(())
    }

    /// Starts the home thread; it runs when this returns.
    pub(super) fn start(self: &Arc<Self>) -> Result<()> {
        let inner = Arc::clone(self);
        let (started, is_started) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(self.id.clone())
            .spawn(move || inner.run(&started))
            .map_err(|error| {
                Error::os(
                    format!("cannot start the thread of context '{}'", self.id),
                    error,
                )
            })?;
        *lock(&self.thread) = Some(thread);
        is_started.recv().map_err(|_| self.closed())
    }

    /// The home thread: owns the GMainContext and is its thread default until the end.
    fn run(self: &Arc<Self>, started: &mpsc::SyncSender<()>) {
        let gmain = self.gmain.clone();
        let owned = gmain.with_thread_default(|| {
            if let Ok(driving) = self.reactor.drive() {
                make_timers_exact();
                self.thread_id.store(thread_id(), Ordering::Release);
                CURRENT.set(Some(Arc::clone(self)));
                let _ = started.send(());
                self.serve();
                self.thread_id.store(-1, Ordering::Release);
                self.tear_down();
                self.reactor.part(&driving);
                CURRENT.set(None);
            }
        });
        debug_assert!(owned.is_ok(), "a fresh GMainContext has no other owner");
    }

    fn serve(self: &Arc<Self>) {
        let Some(mut home) = lock(&self.home).take() else {
            return;
        };
        while !self.stopping.load(Ordering::Acquire) {
            if let Err(error) = home.iterate(self, Wait::Block) {
                glib::g_critical!("qcontext", "context '{}' stops: {error}", self.id);
                return;
            }
        }
    }
}

/// Lets the kernel end the calling thread's waits when they are due; by default it may take 50 us longer (prctl(2)).
fn make_timers_exact() {
    const ONE_NS: libc::c_ulong = 1;
    // SAFETY: PR_SET_TIMERSLACK takes a number.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, ONE_NS) };
}

/// The kernel's id of the calling thread.
fn thread_id() -> i64 {
    // SAFETY: no arguments.
    i64::from(unsafe { libc::gettid() })
}

#[cfg(test)]
mod tests;
