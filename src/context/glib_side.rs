//! When and how the loop asks GLib.
//!
//! The reactor alone serves our own sources, with one wait for everything. GLib's four steps (prepare, query, check, dispatch)
//! cost more, so the loop takes them only when GSources that are not ours may be attached: after one was attached through
//! `QContext::attach_source`, or after GLib's wake-up fd fired. Our GMainContexts have the flag OWNERLESS_POLLING, so each
//! change to them, also one made by the owning thread, signals that fd.
//!
//! From then on GLib is asked before each wait that could block. While the reactor has work at every turn, GLib is asked at
//! every 16th turn and at each clock tick. GLib's fds stand in an epoll set inside the reactor's (see `fds`), so an idle GSource
//! costs no system call.
#![allow(unsafe_code)] // g_main_context_prepare and its companions exist in C only

mod fds;

use super::{ContextCore, lock};
use crate::{AioContext, EventNotifier, Result, Wait};
use fds::GlibFds;
use glib::translate::{ToGlibPtr, from_glib_full};
use gsource::{Clock, Reactor, last_tick_ns};
use std::sync::atomic::Ordering;

/// How many turns with work may follow each other before GLib is asked.
const BUSY_TURNS: u32 = 15;

/// A GMainContext that signals its wake-up fd at each change, also at one made by its owner.
///
/// # Errors
/// There is no fd for it. GLib ends the process then, so an fd is taken first and given back. Another thread that takes the very
/// last one in between is not kept from that.
pub(super) fn new_main_context() -> Result<glib::MainContext> {
    drop(EventNotifier::new()?);
    let flags = glib_sys::G_MAIN_CONTEXT_FLAGS_OWNERLESS_POLLING;
    // SAFETY: takes no pointers.
    let context = unsafe { glib_sys::g_main_context_new_with_flags(flags) };
    // SAFETY: the fresh context's reference is ours.
    Ok(unsafe { from_glib_full(context) })
}

/// What the loop knows of GLib's side. The iterating thread has it.
pub(super) struct GlibSide {
    glib_fds: GlibFds,
    /// What the last query answered.
    fds: Vec<glib_sys::GPollFD>,
    /// Turns since GLib was last asked, and the clock tick at that time.
    busy_turns: u32,
    asked_at: i64,
    /// The last [`Reactor::glib_turns`]: it changes when GLib's own functions iterate the GMainContext.
    glib_turns: usize,
}

// SAFETY: the pollfds are plain numbers.
unsafe impl Send for GlibSide {}

/// What GLib's prepare and query answered.
struct Prepared {
    ready: bool,
    priority: i32,
    /// Nanoseconds until a GSource is due.
    timeout_ns: Option<i64>,
}

impl GlibSide {
    /// Does not ask GLib yet: that would run foreign prepare functions while the context is being made.
    pub(super) fn new(reactor: &Reactor, aio: &AioContext) -> Result<GlibSide> {
        Ok(GlibSide {
            glib_fds: GlibFds::new(aio, reactor.poll_fd()?)?,
            fds: Vec::new(),
            busy_turns: 0,
            asked_at: 0,
            glib_turns: reactor.glib_turns(),
        })
    }

    /// One iteration; the module says when GLib is asked.
    pub(super) fn iterate(&mut self, context: &ContextCore, wait: Wait) -> Result<bool> {
        self.notice_turns_of_glib(context);
        if !context.foreign.load(Ordering::Acquire) {
            return self.iterate_reactor(context, wait);
        }
        if wait == Wait::Block && self.may_put_off_asking() {
            let progress = context.reactor.iterate_if_ready()?;
            if progress.is_some() && !self.glib_fds.is_woken() {
                return Ok(progress == Some(true));
            }
        }
        self.iterate_with_glib(context, wait)
    }

    /// True when an iteration without waiting would dispatch something.
    pub(super) fn is_pending(&mut self, context: &ContextCore) -> Result<bool> {
        self.notice_turns_of_glib(context);
        if context.reactor.is_pending()? {
            return Ok(true);
        }
        if self.glib_fds.is_ready() {
            context.foreign.store(true, Ordering::Release);
        }
        if !context.foreign.load(Ordering::Acquire) {
            return Ok(false);
        }
        let prepared = self.ask(context)?;
        Ok(self.check(context, &prepared))
    }

    /// While no foreign GSource is known. The wake-up fd says that one has come.
    fn iterate_reactor(&mut self, context: &ContextCore, wait: Wait) -> Result<bool> {
        let progress = context.reactor.iterate(wait)?;
        if !self.glib_fds.take_woken() {
            return Ok(progress);
        }
        context.foreign.store(true, Ordering::Release);
        let prepared = self.ask(context)?;
        Ok(self.check_and_dispatch(context, &prepared) | progress)
    }

    fn iterate_with_glib(&mut self, context: &ContextCore, wait: Wait) -> Result<bool> {
        let prepared = self.ask(context)?;
        let wait = if prepared.ready || self.glib_fds.is_woken() {
            Wait::NoBlock
        } else {
            wait
        };
        let due = prepared
            .timeout_ns
            .map(|timeout| Clock::Realtime.now_ns() + timeout);
        let mut progress = context.reactor.iterate_for(wait, prepared.timeout_ns)?;
        let is_due = due.is_some_and(|due| Clock::Realtime.now_ns() >= due);
        let woken = self.glib_fds.take_woken();
        if woken || prepared.ready || is_due {
            progress |= self.check_and_dispatch(context, &prepared);
        }
        if self.glib_fds.has_stale_fd(woken, &self.fds) {
            // If it fails, the next spurious wake-up tries again.
            let _ = self.glib_fds.renew();
        }
        Ok(progress)
    }

    /// A thread that iterated the GMainContext with GLib's functions may have consumed the wake-up for a GSource that is new
    /// to us.
    fn notice_turns_of_glib(&mut self, context: &ContextCore) {
        let turns = context.reactor.glib_turns();
        if self.glib_turns != turns {
            self.glib_turns = turns;
            self.glib_fds.mark_stale();
            context.foreign.store(true, Ordering::Release);
        }
    }

    /// True while GLib need not be asked if the reactor has work: for [`BUSY_TURNS`], and not past the next clock tick.
    fn may_put_off_asking(&mut self) -> bool {
        self.busy_turns += 1;
        self.busy_turns <= BUSY_TURNS && self.asked_at == last_tick_ns()
    }

    fn ask(&mut self, context: &ContextCore) -> Result<Prepared> {
        self.busy_turns = 0;
        self.asked_at = last_tick_ns();
        let driving = context.reactor.drive()?;
        let prepare = || self.prepare(&context.gmain);
        let prepared = driving.ask_glib(prepare);
        if let Some(fd) = self.glib_fds.take_mistake() {
            let id = &context.id;
            glib::g_warning!(
                "qcontext",
                "context '{id}': fd {fd} was closed while a GSource watches it"
            );
        }
        Ok(prepared)
    }

    /// GLib's prepare and query; watches the fds of the answer.
    fn prepare(&mut self, gmain: &glib::MainContext) -> Prepared {
        let gmain = gmain.to_glib_none().0;
        let mut priority = 0;
        // SAFETY: the calling thread owns the context.
        let ready = unsafe { glib_sys::g_main_context_prepare(gmain, &raw mut priority) } != 0;
        let timeout_ms = self.query(gmain, priority);
        self.glib_fds.watch(&self.fds);
        let timeout_ns = u32::try_from(timeout_ms)
            .ok()
            .map(|ms| i64::from(ms) * 1_000_000);
        Prepared {
            ready: ready || timeout_ns == Some(0),
            priority,
            timeout_ns,
        }
    }

    /// Fills `fds`. Answers the timeout in milliseconds, negative for none.
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
            let unset = glib_sys::GPollFD {
                fd: -1,
                events: 0,
                revents: 0,
            };
            self.fds.resize(needed, unset);
            if fits {
                return timeout;
            }
        }
    }

    /// Polls GLib's fds without waiting, and lets GLib check them. True when a GSource is to be dispatched.
    fn check(&mut self, context: &ContextCore, prepared: &Prepared) -> bool {
        self.glib_fds.poll_now(&mut self.fds);
        // The loop serves the reactor itself. GLib would dispatch the reactor's GSource because its fd is ready.
        self.glib_fds.set_own_revents(&mut self.fds, 0);
        let gmain = context.gmain.to_glib_none().0;
        let count = i32::try_from(self.fds.len()).unwrap_or(i32::MAX);
        let Ok(driving) = context.reactor.drive() else {
            return false;
        };
        let fds = self.fds.as_mut_ptr();
        // SAFETY: the calling thread owns the context; the fds are those of its query.
        let check =
            || unsafe { glib_sys::g_main_context_check(gmain, prepared.priority, fds, count) } != 0;
        driving.ask_glib(check)
    }

    fn check_and_dispatch(&mut self, context: &ContextCore, prepared: &Prepared) -> bool {
        let ready = self.check(context, prepared);
        if ready {
            // SAFETY: the calling thread owns the context and has checked it.
            unsafe { glib_sys::g_main_context_dispatch(context.gmain.to_glib_none().0) };
        }
        ready
    }
}

impl ContextCore {
    /// Consumes the wake-up that attaching our own source has caused, so that GLib is not asked because of it. For a fresh
    /// GMainContext that no other thread knows.
    pub(super) fn take_back_first_wake_up(&self) -> Result<()> {
        if let (Some(glib_side), Ok(_owner)) =
            (lock(&self.glib_side).as_mut(), self.gmain.acquire())
        {
            let prepared = glib_side.ask(self)?;
            glib_side.check(self, &prepared);
            glib_side.glib_fds.learn_wake_fd();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
