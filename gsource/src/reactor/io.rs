//! The reactor's io_uring: created when first used, submitted at the end of each turn, completed in the middle of it.
#![forbid(unsafe_code)]

use super::fd_table::RING;
use super::wait_method::WaitMethod;
use super::{Driving, HomeState, Reactor};
use crate::panic_boundary::{drop_guarded, guard};
use crate::poller::Drivers;
use crate::poller::io_sink::{IoCompletion, IoSink};
use crate::poller::ring::HomeRing;
use crate::sync::{AtomicUsize, Ordering, lock};
use crate::{Error, ErrorKind, Result};
use std::io;
use std::sync::Arc;

/// How often an ending home waits for the end of one request. Each wait brings a completion, of a request or of the ring's own,
/// or takes a millisecond while the kernel takes no submissions.
const STUCK_LIMIT: u32 = 1000;

impl Reactor {
    fn has_ring(&self) -> bool {
        self.counts.ring.load(Ordering::Relaxed)
    }

    fn open_ring(&self) -> Result<Box<HomeRing>> {
        let ring = Box::new(HomeRing::for_requests()?);
        self.counts.ring.store(true, Ordering::Relaxed);
        lock(&self.table).watch_internal(ring.fd(), RING)?;
        Ok(ring)
    }

    /// Cancels the requests in flight and delivers their ends, for a home that ends: no other thread could take them from the
    /// ring later. Waits for those that the kernel does not cancel because they are under way to a disk. The ring takes no new
    /// ones, so a sink that repeats what was cancelled gets an error.
    ///
    /// # Errors
    /// `WrongThread` while another thread drives; the kernel's, when the ring is another thread's, or when it takes no
    /// submissions for long.
    #[doc(hidden)] // for the contexts of qcontext
    pub fn finish_io(&self) -> Result<()> {
        if !self.has_ring() {
            return Ok(());
        }
        let driving = self.drive()?;
        while driving.change_ring(HomeRing::close).unwrap_or(false) {
            driving.complete_some_io()?;
        }
        Ok(())
    }
}

impl Driving<'_> {
    /// Calls `work` with the ring. The first call makes the ring if the reactor does not wait with one.
    pub(crate) fn with_ring<T>(&self, work: impl FnOnce(&mut HomeRing) -> Result<T>) -> Result<T> {
        self.reactor.open()?;
        let mut home = self.home();
        if home.ring.is_none() {
            home.ring = match self.take_ring(&mut home) {
                Some(ring) => Some(ring),
                None => Some(self.reactor.open_ring()?),
            };
        }
        let ring = home
            .ring
            .as_mut()
            .ok_or_else(|| Error::new(ErrorKind::Closed, "the io_uring is gone"))?;
        work(ring)
    }

    /// Takes the ring out of its place; the first time, the one that waits.
    pub(super) fn take_ring(&self, home: &mut HomeState) -> Option<Box<HomeRing>> {
        let method = self.reactor.fds.get().map(|fds| &fds.method);
        if home.ring.is_none()
            && let Some(WaitMethod::Ring(_, unused)) = method
        {
            home.ring = lock(unused).take();
            self.reactor.counts.ring.store(true, Ordering::Relaxed);
        }
        home.ring.take()
    }

    /// Calls `change` with the ring, if there is one.
    #[inline]
    fn change_ring<T>(&self, change: impl FnOnce(&mut HomeRing) -> T) -> Option<T> {
        if !self.reactor.has_ring() {
            return None;
        }
        self.home().ring.as_deref_mut().map(change)
    }

    /// True when the wait submits what was pushed, and follows soon.
    pub(super) fn submits_by_waiting(&self) -> bool {
        self.reactor.drivers == Drivers::One
            && matches!(self.reactor.fds.get(), Some(fds) if matches!(fds.method, WaitMethod::Ring(..)))
    }

    pub(super) fn submit_before_wait(&self) {
        if self.reactor.has_ring() && (!self.submits_by_waiting() || self.may_busy_poll()) {
            self.submit_io();
        }
    }

    pub(super) fn submit_after_turn(&self) {
        if self.reactor.has_ring() && (!self.submits_by_waiting() || self.is_glib_waiter()) {
            self.submit_io();
        }
    }

    pub(super) fn submit_io(&self) {
        self.change_ring(HomeRing::submit);
    }

    /// True when requests are in flight whose completions cannot wake GLib.
    pub(super) fn has_silent_io(&self) -> bool {
        self.change_ring(|ring| ring.is_silent()).unwrap_or(false)
    }

    /// Brings the completions that the kernel keeps until it is asked.
    pub(super) fn fetch_io(&self) {
        self.change_ring(HomeRing::fetch);
    }

    pub(super) fn has_ready_io(&self) -> bool {
        self.change_ring(HomeRing::is_ready).unwrap_or(false)
    }

    /// As [`Driving::has_ready_io`], for busy-polling: no wait brings the completions.
    pub(super) fn has_pollable_io(&self) -> bool {
        self.change_ring(HomeRing::is_pollable).unwrap_or(false)
    }

    /// How many requests of the queue that counts with `in_flight` are unfinished here.
    pub(crate) fn unfinished_io(&self, in_flight: &Arc<AtomicUsize>) -> usize {
        self.change_ring(|ring| ring.unfinished(in_flight))
            .unwrap_or(0)
    }

    /// Hands out the completions there are; true when there were some.
    pub(super) fn complete_io(&self) -> bool {
        if !self.has_ready_io() {
            return false;
        }
        let mut progress = false;
        let mut run = std::mem::take(&mut self.home().completions);
        while let Some((slot, sink)) = self.next_run(&mut run) {
            progress = true;
            let _ = guard(&"completion of io_uring requests", || sink.complete(&run));
            drop_guarded(&"destructor of an io_uring sink", sink);
            self.change_ring(|ring| ring.end_run(slot));
        }
        self.home().completions = run;
        progress
    }

    /// Cancels the requests in flight, waits for one to end, and hands out the completions there are.
    fn complete_some_io(&self) -> Result<()> {
        let mut is_asked = false;
        for _ in 0..STUCK_LIMIT {
            if self.complete_io() {
                return Ok(());
            }
            is_asked = is_asked || self.change_ring(HomeRing::cancel_all) == Some(true);
            let waited = self.change_ring(HomeRing::wait_for_one).unwrap_or(Ok(()));
            waited.map_err(|error| Error::os("the io_uring refuses its thread", error))?;
        }
        let error = io::Error::from_raw_os_error(libc::EAGAIN);
        Err(Error::os("the io_uring takes no requests", error))
    }

    /// The next completions of one sink.
    fn next_run(&self, run: &mut Vec<IoCompletion>) -> Option<(usize, Arc<dyn IoSink>)> {
        run.clear();
        self.change_ring(|ring| ring.next_run(run)).flatten()
    }
}
