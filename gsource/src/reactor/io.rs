//! The reactor's io_uring: created when first used, submitted at the end of each turn, completed in the middle of it.
#![forbid(unsafe_code)]

use super::{Driving, RING, Reactor};
use crate::Result;
use crate::aio::lock;
use crate::poller::uring::Ring;
use crate::unwind;

impl Reactor {
    /// Calls `work` with the ring.
    pub(crate) fn with_ring<T>(
        &self,
        driving: &Driving<'_>,
        work: impl FnOnce(&mut Ring) -> Result<T>,
    ) -> Result<T> {
        self.open()?;
        let mut home = self.home.get(driving);
        let ring = match home.ring.take() {
            Some(ring) => ring,
            None => self.open_ring()?,
        };
        work(home.ring.insert(ring))
    }

    fn open_ring(&self) -> Result<Ring> {
        let ring = Ring::new()?;
        lock(&self.fds).watch_internal(ring.fd(), RING)?;
        Ok(ring)
    }

    pub(super) fn submit_io(&self, driving: &Driving<'_>) {
        if let Some(ring) = &mut self.home.get(driving).ring {
            ring.submit();
        }
    }

    pub(super) fn has_ready_io(&self, driving: &Driving<'_>) -> bool {
        self.home
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
        let finished = self
            .home
            .get(driving)
            .ring
            .as_mut()
            .map(Ring::finished)
            .unwrap_or_default();
        let progress = !finished.is_empty();
        for batch in finished {
            let _ = unwind::guard(&"completion of io_uring requests", || {
                batch.sink.complete(&batch.completions);
            });
            unwind::drop_guarded(&"destructor of an io_uring sink", batch.sink);
        }
        progress
    }
}
