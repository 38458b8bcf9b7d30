//! A tenant moves from one reactor to another, with its handlers, timers and bottom halves, and without losing an event.
#![forbid(unsafe_code)]

use super::attachment::Attachment;
use super::fd_record::FdRecord;
use super::tenant::Tenant;
use super::{Driving, PendingRelease, Reactor, Urgency};
use crate::panic_boundary;
use crate::sync::{Ordering, lock};
use crate::{Error, ErrorKind, Result};
use std::sync::Arc;

impl Tenant {
    /// Moves from the reactor that the caller drives to `new`.
    ///
    /// # Errors
    /// `Busy` while the tenant has tasks or one of its callbacks runs; the kernel's, when the new poll set does not take an fd.
    /// The tenant stays where it was then.
    pub(crate) fn move_to(
        self: &Arc<Self>,
        driving: Driving<'_>,
        new: &Arc<Reactor>,
    ) -> Result<()> {
        let old = driving.reactor;
        self.check_movable()?;
        new.open()?;
        self.stop_polling(&driving);
        let records = lock(&self.records);
        let errors = move_records(&records, old, new)?;
        let seen = driving.forget_handlers(self, &records);
        driving.hand_over_bhs(self);
        let mut earlier = Vec::new();
        let rebind = || earlier = self.bind(Attachment::new(self, new));
        Reactor::move_timers(old, new, self, rebind);
        drop(records);
        // The caller may hold any lock, so the next home drops what is left and logs the errors.
        let is_removed = |record: &Arc<FdRecord>| record.is_removed();
        // Collected here, so that the others are not dropped under the lock that `release` takes.
        let removed: Vec<_> = seen.into_iter().filter(is_removed).collect();
        new.release(removed.into_iter().map(PendingRelease::Handler));
        new.release(errors.into_iter().map(PendingRelease::Error));
        driving.hand_over_releases(self, new);
        // The list of the old reactor holds the attachment if that was kicked, and may never be looked at again.
        driving.take_kicked();
        drop(driving);
        drop(earlier);
        self.kick(Urgency::Now);
        Ok(())
    }

    fn check_movable(&self) -> Result<()> {
        if self.pins.load(Ordering::SeqCst) > 0 {
            let message = "the AioContext has tasks, which are bound to their thread; end them before it moves";
            return Err(Error::new(ErrorKind::Busy, message));
        }
        // The new home could call the same callback again before this call has returned.
        if self.is_in_call() || lock(&self.records).iter().any(|record| record.is_called()) {
            let message =
                "a callback of the AioContext is running; it moves when that has returned";
            return Err(Error::new(ErrorKind::Busy, message));
        }
        Ok(())
    }

    /// Leaves busy-polling on the old home. A handler whose notifications were off is polled once more on the next home, because
    /// a notification may have been suppressed just before.
    fn stop_polling(self: &Arc<Self>, driving: &Driving<'_>) {
        for record in self.polled_records() {
            if driving.stop_polling_of(&record) {
                let poll = move || record.poll_after_move();
                self.schedule_oneshot("last poll after a move", poll);
            } else {
                panic_boundary::drop_guarded(&"destructor of an fd handler", record);
            }
        }
    }

    fn polled_records(&self) -> Vec<Arc<FdRecord>> {
        let mut polled = Vec::new();
        polled.extend(
            lock(&self.records)
                .iter()
                .filter(|record| record.handler.io_poll.is_some())
                .cloned(),
        );
        polled
    }
}

/// Moves all of `records` or none. The answer is the errors of fds that were closed under their handlers.
fn move_records(records: &[Arc<FdRecord>], old: &Reactor, new: &Reactor) -> Result<Vec<Error>> {
    for record in records {
        old.remove_record(record);
        record.set_paused(false);
        record.set_put_aside(false);
    }
    new.adopt_records(records).inspect_err(|_| {
        let errors = old.readopt_records(records);
        old.release(errors.into_iter().map(PendingRelease::Error));
    })
}
