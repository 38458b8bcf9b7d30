//! One turn of a reactor, by its own wait.
//!
//! 1. Ask paused readers, drop what was released, submit I/O that the wait does not submit.
//! 2. Wait: busy-poll, ask the kernel, or neither when bottom halves are due and the kernel was asked lately.
//! 3. Run bottom halves, completions of I/O, ready handlers and due timers. Submit I/O.
//! 4. Drop what was released.
#![forbid(unsafe_code)]

use super::fd_record::FdRecord;
use super::fd_table::Batch;
use super::{Driving, Reactor, Wait};
use crate::Result;
use crate::clock::last_tick_ns;
use crate::panic_boundary::drop_guarded;
use crate::poller::POLLED;
use crate::sync::Ordering;
use std::sync::Arc;

/// An idle bottom half waits no longer.
const IDLE_BH_NS: i64 = 10_000_000;
/// How many turns with bottom halves may follow each other without a look at the kernel.
const PUT_OFFS: u32 = 31;

/// Blocking turns in a row that have not asked the kernel. Any other turn ends the row.
#[derive(Default)]
pub(super) struct PutOff {
    turns: u32,
    /// The clock tick when the kernel was last asked.
    since: i64,
}

impl Reactor {
    /// One iteration; true when it made progress. See [`AioContext::poll`](crate::AioContext::poll).
    ///
    /// # Errors
    /// `WrongThread` while another thread drives; the kernel's, when it gives no fds for the wait.
    pub fn iterate(&self, wait: Wait) -> Result<bool> {
        self.iterate_for(wait, None)
    }

    /// As [`Reactor::iterate`], but blocks at most `limit_ns` nanoseconds.
    ///
    /// # Errors
    /// As for `iterate`.
    pub fn iterate_for(&self, wait: Wait, limit_ns: Option<i64>) -> Result<bool> {
        let driving = self.drive()?;
        driving.prepare_turn()?;
        driving.begin_wait();
        if driving.home().batch.is_empty() {
            driving.wait(wait, limit_ns);
        } else {
            driving.submit_io();
        }
        Ok(driving.run_ready())
    }

    /// As [`Reactor::iterate`] without waiting, but only if there is something to run. Otherwise the answer is `None`, and a
    /// notification stays for the next iteration.
    ///
    /// # Errors
    /// As for `iterate`.
    #[doc(hidden)] // for the contexts of qcontext
    pub fn iterate_if_ready(&self) -> Result<Option<bool>> {
        let driving = self.drive()?;
        driving.prepare_turn()?;
        if driving.home().batch.is_empty() {
            driving.collect(0);
        } else {
            driving.submit_io();
        }
        driving.collect_ready();
        let ready = driving.has_work() || self.remaining_ns() == Some(0);
        Ok(ready.then(|| driving.run_ready()))
    }

    /// True when a turn without waiting would make progress. What is ready stays for that turn.
    ///
    /// # Errors
    /// As for `iterate`.
    #[doc(hidden)] // for the contexts of qcontext
    pub fn is_pending(&self) -> Result<bool> {
        let driving = self.drive()?;
        driving.prepare_turn()?;
        let looks = driving.home().batch.is_empty();
        if looks {
            driving.collect(0);
        } else {
            driving.submit_io();
        }
        driving.collect_ready();
        let is_ready = driving.has_wanted_event()
            || driving.has_due_bh()
            || driving.has_ready_io()
            || self.remaining_ns() == Some(0);
        if looks {
            driving.forget_levels();
        }
        Ok(is_ready)
    }

    /// Consumes notifications.
    ///
    /// # Errors
    /// `WrongThread` while another thread drives.
    pub(crate) fn accept_notifications(&self) -> Result<()> {
        let driving = self.drive()?;
        driving.reactor.state.accept();
        Ok(())
    }

    /// How long a turn would wait now, in nanoseconds; `None` when only an event would end it. A notification does not count.
    ///
    /// # Errors
    /// `WrongThread` while another thread drives.
    pub(crate) fn bound_ns(&self) -> Result<Option<i64>> {
        let driving = self.drive()?;
        driving.collect_ready();
        let is_ready = !driving.home().batch.is_empty()
            || driving.has_due_bh()
            || self.has_always_ready()
            || driving.has_ready_io();
        if is_ready {
            return Ok(Some(0));
        }
        let idle = driving.has_scheduled_bh().then_some(IDLE_BH_NS);
        Ok(idle.into_iter().chain(self.remaining_ns()).min())
    }
}

impl Driving<'_> {
    #[inline]
    fn prepare_turn(&self) -> Result<()> {
        self.ask_paused();
        self.prepare_wait()
    }

    /// If GLib waits on another thread, the wake-up that the last turn here left for it must not end this wait.
    pub(super) fn begin_wait(&self) {
        if self.reactor.glib.is_asleep() {
            self.collect(0);
        }
    }

    pub(super) fn prepare_wait(&self) -> Result<()> {
        if self.reactor.fds.get().is_none() {
            self.reactor.open()?;
        }
        self.drop_released();
        self.submit_before_wait();
        Ok(())
    }

    /// True when a blocking turn has bottom halves to run, as those before it had, and the kernel was asked lately. Then this
    /// turn need not ask it. What is ready waits for [`PUT_OFFS`] turns at most, and not past the next clock tick.
    #[inline]
    fn may_put_off_wait(&self, wait: Wait) -> bool {
        self.collect_ready();
        let put_off = &mut self.home().put_off;
        if wait == Wait::NoBlock || !self.has_urgent_bh() {
            put_off.turns = PUT_OFFS;
            return false;
        }
        let tick = last_tick_ns();
        let may = put_off.turns < PUT_OFFS && put_off.since == tick;
        put_off.turns = if may { put_off.turns + 1 } else { 0 };
        put_off.since = tick;
        may
    }

    /// Fills the batch by busy-polling, by the kernel, or by both.
    pub(super) fn wait(&self, wait: Wait, limit_ns: Option<i64>) {
        if !self.submits_by_waiting() && self.may_put_off_wait(wait) {
            return;
        }
        let polling_since = self.busy_poll(wait, limit_ns);
        if self.may_skip_wait() {
            return;
        }
        let timeout = self.timeout_ns(wait, limit_ns);
        if wait == Wait::Block || !self.is_pollable() {
            self.collect(timeout);
        } else {
            self.submit_io();
        }
        if let Some(begin) = polling_since
            && timeout != 0
        {
            self.adapt_polling(begin);
        }
    }

    /// True when busy-polling sees everything that the kernel could report.
    fn is_pollable(&self) -> bool {
        let counts = &self.reactor.counts;
        counts.polls.load(Ordering::Acquire) && counts.unpollable.load(Ordering::Acquire) == 0
    }

    /// Runs everything that is ready. True when something ran that counts as progress.
    pub(super) fn run_ready(&self) -> bool {
        let reactor = self.reactor;
        if reactor.state.accept() && reactor.counts.polls.load(Ordering::Acquire) {
            self.home().adaptive_poll.note_notification();
        }
        self.collect_ready();
        let mut progress = self.run_bhs();
        progress |= self.complete_io();
        progress |= self.run_handlers();
        progress |= self.run_timers();
        self.submit_after_turn();
        self.drop_released();
        progress
    }

    /// How long to block. If that is not 0, the sleep was announced (invariant 2 of the reactor).
    #[inline]
    fn timeout_ns(&self, wait: Wait, limit_ns: Option<i64>) -> i64 {
        if wait == Wait::NoBlock || self.has_urgent_bh() || !self.reactor.state.sleep() {
            return 0;
        }
        self.collect_ready();
        if self.has_work() || self.reactor.has_always_ready() {
            return 0;
        }
        let mut bound = limit_ns.unwrap_or(i64::MAX);
        if self.has_scheduled_bh() {
            bound = bound.min(IDLE_BH_NS);
        }
        if let Some(remaining) = self.reactor.remaining_ns() {
            bound = bound.min(remaining);
        }
        if bound == i64::MAX { -1 } else { bound }
    }

    /// Asks the handlers that did not want to read whether they do now, and waits again for those that were put aside.
    #[inline]
    pub(super) fn ask_paused(&self) {
        if !self.home().paused.is_empty() {
            self.ask_each_paused();
        }
    }

    #[inline(never)]
    fn ask_each_paused(&self) {
        let paused = std::mem::take(&mut self.home().paused);
        for record in paused {
            if record.is_removed() {
                continue;
            }
            self.take_back(&record);
            if !record.is_paused() {
                continue;
            }
            if record.may_read() {
                record.set_paused(false);
                self.reactor.change_fds(|fds| fds.update(&record));
            } else if !record.is_removed() {
                self.home().paused.push(record);
            }
        }
    }

    /// Calls the ready handlers. A nested iteration calls the rest of this one's.
    fn run_handlers(&self) -> bool {
        let mut progress = false;
        loop {
            let next = self.home().batch.pop_front();
            let Some((record, events)) = next else {
                return progress;
            };
            if events & POLLED != 0 {
                progress |= self.run_polled(&record);
                continue;
            }
            self.add_polled(&record);
            if record.wants_read(events) && !record.is_removed() {
                progress |= self.read(&record);
            }
            if record.wants_write(events) && !record.is_removed() {
                progress |= !record.handler.quiet;
                record.call_or_remove(record.handler.write.as_deref());
            }
            let leftover = self.home().fd_cache.put(record);
            // It may have been removed and dropped meanwhile, so that this is the last reference.
            if let Some(last) = leftover.filter(|one| Arc::strong_count(one) == 1) {
                drop_guarded(&"destructor of an fd handler", last);
            }
        }
    }

    /// True when an event is ready whose handler would be called, and counts as progress.
    fn has_wanted_event(&self) -> bool {
        let ready: Vec<_> = self.home().batch.iter().cloned().collect();
        let is_wanted = |(record, events): &(Arc<FdRecord>, u32)| {
            let is_read = || record.wants_read(*events) && record.may_read();
            let is_called = events & POLLED != 0 || record.wants_write(*events) || is_read();
            is_called && !record.handler.quiet && !record.is_removed()
        };
        let found = ready.iter().any(is_wanted);
        drop_guarded(&"destructor of an fd handler", ready);
        found
    }

    /// Forgets events that the next wait reports again if they are still there.
    fn forget_levels(&self) {
        let mut home = self.home();
        let (edges, levels): (Batch, Batch) = std::mem::take(&mut home.batch)
            .into_iter()
            .partition(|(record, _)| record.handler.edge);
        home.batch = edges;
        drop(home);
        drop_guarded(&"destructor of an fd handler", levels);
    }

    /// Handles what busy-polling found. Meanwhile the handler is not polled, because it may iterate.
    fn run_polled(&self, record: &Arc<FdRecord>) -> bool {
        if record.is_removed() {
            return false;
        }
        let was_polled = self.remove_polled(record);
        record.call_or_remove(record.handler.io_poll_ready.as_deref());
        if was_polled && !record.is_removed() {
            self.add_polled(record);
        }
        true
    }

    /// Calls the read callback, unless `read_poll` pauses it.
    fn read(&self, record: &Arc<FdRecord>) -> bool {
        let may_read = record.may_read();
        if record.is_removed() {
            return false;
        }
        if may_read {
            record.call_or_remove(record.handler.read.as_deref());
        } else {
            record.set_paused(true);
            self.reactor.change_fds(|fds| fds.update(record));
            self.home().paused.push(Arc::clone(record));
        }
        may_read && !record.handler.quiet
    }

    /// True when there is something to run, or to drop.
    pub(super) fn has_work(&self) -> bool {
        !self.home().batch.is_empty()
            || self.has_urgent_bh()
            || self.has_ready_io()
            || self.reactor.has_releases()
    }
}
