//! The reactor's io_uring: created when first used, submitted at the end of each turn, completed in the middle of it.
#![forbid(unsafe_code)]

use super::{Driving, RING, Reactor};
use crate::aio::lock;
use crate::poller::uring::{IoCompletion, IoSink, Ring};
use crate::unwind;
use crate::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;

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
            home.ring = Some(self.open_ring()?);
        }
        let ring = home
            .ring
            .as_mut()
            .ok_or_else(|| Error::new(ErrorKind::Closed, "the io_uring is gone"))?;
        work(ring)
    }

    fn open_ring(&self) -> Result<Ring> {
        let ring = Ring::new()?;
        self.counts.ring.store(true, Ordering::Relaxed);
        lock(&self.fds).watch_internal(ring.fd(), RING)?;
        Ok(ring)
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
                .is_some_and(Ring::is_ready)
    }

    /// Hands out the completions there are; true when there were some.
    pub(super) fn complete_io(&self, driving: &Driving<'_>) -> bool {
        if !self.has_ready_io(driving) {
            return false;
        }
        let mut progress = false;
        let mut run = std::mem::take(&mut self.home.get(driving).completions);
        while let Some(sink) = self.next_run(driving, &mut run) {
            progress = true;
            let _ = unwind::guard(&"completion of io_uring requests", || sink.complete(&run));
            unwind::drop_guarded(&"destructor of an io_uring sink", sink);
        }
        self.home.get(driving).completions = run;
        progress
    }

    /// The next completions of one sink.
    fn next_run(
        &self,
        driving: &Driving<'_>,
        run: &mut Vec<IoCompletion>,
    ) -> Option<Arc<dyn IoSink>> {
        run.clear();
        self.home.get(driving).ring.as_mut()?.next_run(run)
    }
}
