//! A turn that leaves some handlers aside: what [`AioContext::poll`](crate::AioContext::poll) does on a home.
//!
//! A callback may poll an AioContext until something has happened, as QEMU's block layer does when it drains. Handlers that are
//! not part of any AioContext's work must not run meanwhile, such as the fds of a monitor, and may not end the wait either. Those
//! have [`FdHandler::aside`](crate::FdHandler::aside). If such a turn finds one ready, it takes the fd out of the poll set and waits
//! on. The home's next own iteration puts it back.
#![forbid(unsafe_code)]

use super::fd_record::FdRecord;
use super::fd_table::Batch;
use super::{Driving, Reactor, Wait};
use crate::Result;
use crate::panic_boundary::drop_guarded;
use crate::poller::POLLED;
use std::sync::Arc;

impl Reactor {
    /// As [`Reactor::iterate`], without the handlers that are left aside.
    ///
    /// # Errors
    /// As for `iterate`.
    pub(crate) fn poll(&self, wait: Wait) -> Result<bool> {
        let driving = self.drive()?;
        // Those that an iteration around this call has found ready.
        driving.put_aside();
        loop {
            driving.ask_paused_but_aside();
            driving.prepare_wait()?;
            driving.begin_wait();
            if driving.home().batch.is_empty() {
                driving.wait(wait, None);
            } else {
                driving.submit_io();
            }
            let waits_on = driving.put_aside() && wait == Wait::Block && driving.may_wait_on();
            if !waits_on {
                return Ok(driving.run_ready());
            }
        }
    }
}

impl Driving<'_> {
    /// Takes the handlers that are left aside out of the batch, and their fds out of the poll set. True when there was one. What
    /// busy-polling has found stays, because no fd would report it again.
    fn put_aside(&self) -> bool {
        let is_aside =
            |(record, events): &(Arc<FdRecord>, u32)| record.handler.aside && events & POLLED == 0;
        let mut home = self.home();
        if !home.batch.iter().any(is_aside) {
            return false;
        }
        let (aside, rest): (Batch, Batch) = std::mem::take(&mut home.batch)
            .into_iter()
            .partition(is_aside);
        home.batch = rest;
        drop(home);
        for (record, _) in aside {
            if record.is_removed() || record.is_put_aside() {
                drop_guarded(&"destructor of an fd handler", record);
                continue;
            }
            record.set_put_aside(true);
            self.reactor.change_fds(|fds| fds.update(&record));
            self.home().paused.push(record);
        }
        true
    }

    /// Waits for `record` again if it was put aside.
    pub(super) fn take_back(&self, record: &FdRecord) {
        if record.is_put_aside() {
            record.set_put_aside(false);
            self.reactor.change_fds(|fds| fds.update(record));
        }
    }

    /// As [`Driving::ask_paused`], but leaves those aside that are, unless they were removed: their destructors do not wait for an
    /// iteration.
    fn ask_paused_but_aside(&self) {
        let mut home = self.home();
        let stays = |record: &mut Arc<FdRecord>| record.is_put_aside() && !record.is_removed();
        let aside: Vec<_> = home.paused.extract_if(.., stays).collect();
        drop(home);
        self.ask_paused();
        self.home().paused.extend(aside);
    }

    /// True when a wait has found nothing to run, and nothing that ends it.
    fn may_wait_on(&self) -> bool {
        let reactor = self.reactor;
        self.collect_ready();
        !self.has_work() && !reactor.state.is_notified() && reactor.remaining_ns() != Some(0)
    }
}
