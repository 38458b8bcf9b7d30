//! The reactor's io_uring: created when first used, submitted at the end of each turn, completed in the middle of it.
#![forbid(unsafe_code)]

use super::{Driving, Home, Means, RING, Reactor};
use crate::panic_boundary;
use crate::poller::Drivers;
use crate::poller::io_sink::{IoCompletion, IoSink};
use crate::poller::ring::Ring;
use crate::sync::lock;
use crate::sync::{AtomicUsize, Ordering};
use crate::{Error, ErrorKind, Result};
use std::sync::Arc;

impl Reactor {
    /// Calls `work` with the ring.
    pub(crate) fn with_ring<T>(
        &self,
        driving: &Driving<'_>,
        work: impl FnOnce(&mut Ring) -> Result<T>,
    ) -> Result<T> {
        self.open()?;
        let mut home = self.home.get(driving);
        if home.ring.is_none() {
            home.ring = match self.take_ring(&mut home) {
                Some(ring) => Some(ring),
                None => Some(self.open_ring()?),
            };
        }
        let ring = home
            .ring
            .as_mut()
            .ok_or_else(|| Error::new(ErrorKind::Closed, "the io_uring is gone"))?;
        work(ring)
    }

    fn open_ring(&self) -> Result<Box<Ring>> {
        let ring = Box::new(Ring::for_requests()?);
        self.counts.ring.store(true, Ordering::Relaxed);
        lock(&self.fds).watch_internal(ring.fd(), RING)?;
        Ok(ring)
    }

    /// The ring, out of its place; the first time, the one that waits.
    pub(super) fn take_ring(&self, home: &mut Home) -> Option<Box<Ring>> {
        if home.ring.is_none()
            && let Some(Means::Ring(_, fresh)) = self.io.get().map(|io| &io.means)
        {
            home.ring = lock(fresh).take();
            self.counts.ring.store(true, Ordering::Relaxed);
        }
        home.ring.take()
    }

    /// True when the wait submits what was pushed, and follows soon.
    pub(super) fn submits_by_waiting(&self) -> bool {
        self.drivers == Drivers::One
            && matches!(self.io.get(), Some(io) if matches!(io.means, Means::Ring(..)))
    }

    pub(super) fn submit_before_wait(&self, driving: &Driving<'_>) {
        if self.has_ring() && (!self.submits_by_waiting() || self.may_poll_busily(driving)) {
            self.submit_io(driving);
        }
    }

    pub(super) fn submit_after_turn(&self, driving: &Driving<'_>) {
        if self.has_ring() && (!self.submits_by_waiting() || self.home.get(driving).is_foreign) {
            self.submit_io(driving);
        }
    }

    /// True when requests are in flight whose ends a foreign loop is not told of.
    pub(super) fn has_mute_io(&self, driving: &Driving<'_>) -> bool {
        self.has_ring()
            && self
                .home
                .get(driving)
                .ring
                .as_ref()
                .is_some_and(|ring| ring.is_mute())
    }

    /// How many requests of the queue that counts with `in_flight` are unfinished here.
    pub(crate) fn unfinished_io(
        &self,
        driving: &Driving<'_>,
        in_flight: &Arc<AtomicUsize>,
    ) -> usize {
        let home = self.home.get(driving);
        let ring = home.ring.as_ref();
        ring.map_or(0, |ring| ring.unfinished(in_flight))
    }

    /// Cancels the requests in flight and delivers their ends, for a home that ends: no other thread may be able to take them.
    /// Waits for those that the kernel does not cancel, which are under way to a disk.
    ///
    /// # Errors
    /// `WrongThread` while another thread drives; the kernel's, when the ring is another thread's.
    pub fn finish_io(&self) -> Result<()> {
        if !self.has_ring() {
            return Ok(());
        }
        let driving = self.drive()?;
        while self
            .change_ring(&driving, Ring::cancel_all)
            .unwrap_or(false)
        {
            while !self.complete_io(&driving) {
                let waited = self.change_ring(&driving, Ring::wait_for_one);
                let refused = |error| Error::os("the io_uring refuses its thread", error);
                waited.unwrap_or(Ok(())).map_err(refused)?;
            }
        }
        Ok(())
    }

    fn change_ring<T>(
        &self,
        driving: &Driving<'_>,
        change: impl FnOnce(&mut Ring) -> T,
    ) -> Option<T> {
        self.home.get(driving).ring.as_deref_mut().map(change)
    }

    /// Brings the completions that the kernel keeps until it is asked.
    pub(super) fn fetch_io(&self, driving: &Driving<'_>) {
        if self.has_ring()
            && let Some(ring) = &mut self.home.get(driving).ring
        {
            ring.fetch();
        }
    }

    fn has_ring(&self) -> bool {
        self.counts.ring.load(Ordering::Relaxed)
    }

    pub(super) fn submit_io(&self, driving: &Driving<'_>) {
        if self.has_ring()
            && let Some(ring) = &mut self.home.get(driving).ring
        {
            ring.submit();
        }
    }

    pub(super) fn has_ready_io(&self, driving: &Driving<'_>) -> bool {
        self.has_ring()
            && self
                .home
                .get(driving)
                .ring
                .as_mut()
                .is_some_and(|ring| ring.is_ready())
    }

    /// As [`Reactor::has_ready_io`], while nobody waits.
    pub(super) fn is_called_by_io(&self, driving: &Driving<'_>) -> bool {
        self.has_ring()
            && self
                .home
                .get(driving)
                .ring
                .as_mut()
                .is_some_and(|ring| ring.is_calling())
    }

    /// Hands out the completions there are; true when there were some.
    pub(super) fn complete_io(&self, driving: &Driving<'_>) -> bool {
        if !self.has_ready_io(driving) {
            return false;
        }
        let mut progress = false;
        let mut run = std::mem::take(&mut self.home.get(driving).completions);
        while let Some((number, sink)) = self.next_run(driving, &mut run) {
            progress = true;
            let _ =
                panic_boundary::guard(&"completion of io_uring requests", || sink.complete(&run));
            panic_boundary::drop_guarded(&"destructor of an io_uring sink", sink);
            if let Some(ring) = &mut self.home.get(driving).ring {
                ring.end_run(number);
            }
        }
        self.home.get(driving).completions = run;
        progress
    }

    /// The next completions of one sink.
    fn next_run(
        &self,
        driving: &Driving<'_>,
        run: &mut Vec<IoCompletion>,
    ) -> Option<(usize, Arc<dyn IoSink>)> {
        run.clear();
        self.home.get(driving).ring.as_mut()?.next_run(run)
    }
}
