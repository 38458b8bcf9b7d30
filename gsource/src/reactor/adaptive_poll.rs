//! Adaptive busy-polling: before it sleeps, the home looks for work without system calls, for as long as that has paid off.
//!
//! A handler takes part if it has an `io_poll`, once its fd has fired. So does the reactor's own notifier, once it has ended a
//! wait. Each leaves when seven seconds of polling found nothing. [`budget`] learns from the waits how long to poll.
//!
//! While the home polls, handlers keep their peers' notifications off (`FdHandler::io_poll_switch`). Before it sleeps, it turns
//! them on and polls each handler once more, because a notification may have been suppressed just before.
#![forbid(unsafe_code)]

mod budget;

use super::fd_record::FdRecord;
use super::{Driving, Wait};
use crate::clock::Clock;
use crate::poller::POLLED;
use crate::sync::{Ordering, lock};
use crate::{Error, ErrorKind, Result};
use budget::PollBudget;
use std::sync::Arc;

/// A handler that found nothing for so long is not polled any more.
const IDLE_NS: i64 = 7_000_000_000;
/// Turns that polling may keep from looking at the epoll set.
const SKIPS: u32 = 8;

/// How long a home busy-polls before it sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PollParams {
    /// The longest time, in nanoseconds; 0 never polls.
    pub max_ns: i64,
    /// The factor by which the time grows; 0 means 2.
    pub grow: i64,
    /// The divisor by which the time shrinks; 0 means back to nothing.
    pub shrink: i64,
}

impl PollParams {
    pub(super) fn check(self) -> Result<()> {
        for (name, value) in [
            ("max-ns", self.max_ns),
            ("grow", self.grow),
            ("shrink", self.shrink),
        ] {
            if value < 0 {
                let message = format!("poll-{name} value must be in range [0, {}]", i64::MAX);
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
        }
        Ok(())
    }
}

/// What the home polls, and for how long.
#[derive(Default)]
pub(super) struct AdaptivePoll {
    handlers: Vec<PolledHandler>,
    /// Polled for notifications in vain since then; see [`PolledHandler::since`].
    notifier: Option<i64>,
    /// Notifications of the handlers are off.
    is_on: bool,
    /// The notifications of a handler were turned on without polling it once more.
    owes_poll: bool,
    budget: PollBudget,
    skipped: u32,
}

struct PolledHandler {
    record: Arc<FdRecord>,
    /// Polled in vain since then; `i64::MAX` when it found something.
    since: i64,
}

impl AdaptivePoll {
    /// True when there is nothing to poll.
    fn is_idle(&self) -> bool {
        self.handlers.is_empty() && self.notifier.is_none()
    }

    /// True when there is something to poll, or something left to do after polling was switched off.
    fn has_something_to_do(&self, polls: bool) -> bool {
        !self.is_idle() && (polls || self.is_on || self.owes_poll)
    }

    /// A notification ended a wait, so it is worth polling for the next one.
    pub(super) fn note_notification(&mut self) {
        self.notifier = Some(i64::MAX);
    }

    fn find(&self, record: &Arc<FdRecord>) -> Option<usize> {
        let is_it = |one: &PolledHandler| Arc::ptr_eq(&one.record, record);
        self.handlers.iter().position(is_it)
    }
}

impl Driving<'_> {
    fn polls(&self) -> bool {
        self.reactor.counts.polls.load(Ordering::Acquire)
    }

    /// The fd of `record` has fired: from now on its `io_poll` is worth calling.
    #[inline]
    pub(super) fn add_polled(&self, record: &Arc<FdRecord>) {
        if record.handler.io_poll.is_some() {
            self.add_pollable(record);
        }
    }

    #[inline(never)]
    fn add_pollable(&self, record: &Arc<FdRecord>) {
        let polls = self.polls();
        let was_off = record.has_notifications_off();
        if !(polls || was_off) {
            return;
        }
        // It may have been released already. Then no code would remove it again.
        if record.is_removed() {
            return;
        }
        let mut home = self.home();
        let polling = &mut home.adaptive_poll;
        if polls && polling.find(record).is_none() {
            polling.handlers.push(PolledHandler {
                record: Arc::clone(record),
                since: Clock::Realtime.now_ns(),
            });
        }
        let is_on = polls && polling.is_on;
        polling.owes_poll |= was_off && !is_on;
        drop(home);
        // Polling may have been switched meanwhile, by an iteration inside of `io_poll_ready`.
        record.switch_polling(is_on);
    }

    /// Takes `record` out, for good or while its `io_poll_ready` runs. True when it was in.
    pub(super) fn remove_polled(&self, record: &Arc<FdRecord>) -> bool {
        let mut home = self.home();
        let polling = &mut home.adaptive_poll;
        let index = polling.find(record);
        let removed = index.map(|index| polling.handlers.swap_remove(index));
        drop(home);
        removed.is_some()
    }

    /// Stops to poll a handler that moves. True when its notifications were off: then its next home polls it once more.
    pub(super) fn stop_polling_of(&self, record: &Arc<FdRecord>) -> bool {
        let is_on = self.home().adaptive_poll.is_on;
        let was_polled = self.remove_polled(record) && is_on;
        if was_polled {
            record.switch_polling(false);
        }
        was_polled
    }

    /// Polls before a wait. What was found is in the batch. The answer is the time at which polling began, for
    /// [`Driving::adapt_polling`].
    #[inline]
    pub(super) fn busy_poll(&self, wait: Wait, limit_ns: Option<i64>) -> Option<i64> {
        if self.may_busy_poll() {
            self.poll_handlers(wait, limit_ns)
        } else {
            None
        }
    }

    /// False when busy-polling has nothing to do before this wait.
    #[inline]
    pub(super) fn may_busy_poll(&self) -> bool {
        let polls = self.polls();
        self.home().adaptive_poll.has_something_to_do(polls)
    }

    #[inline(never)]
    fn poll_handlers(&self, wait: Wait, limit_ns: Option<i64>) -> Option<i64> {
        let begin = Clock::Realtime.now_ns();
        self.remove_idle(begin);
        let polls = self.polls();
        if wait == Wait::NoBlock {
            self.poll_once();
            return None;
        }
        let budget = self.budget_ns(polls, limit_ns);
        if budget > 0 {
            self.switch_polling(true);
            if self.spin(begin + budget) {
                self.home().adaptive_poll.budget.found();
            }
        }
        if self.home().batch.is_empty() {
            self.stop_polling();
        }
        polls.then_some(begin)
    }

    /// How long to poll: not longer than the wait could last.
    fn budget_ns(&self, polls: bool, limit_ns: Option<i64>) -> i64 {
        let learned = if polls {
            self.home().adaptive_poll.budget.now_ns()
        } else {
            0
        };
        let limits = [self.reactor.remaining_ns(), limit_ns];
        limits.into_iter().flatten().fold(learned, i64::min)
    }

    /// Leaves poll mode: notifications on, and one last poll.
    pub(super) fn stop_polling(&self) {
        if self.takes_last_poll() {
            leave_poll_mode(|| self.switch_polling(false), || self.poll_once());
        }
    }

    /// True when handlers have been without notifications since they were polled.
    fn takes_last_poll(&self) -> bool {
        let polling = &mut self.home().adaptive_poll;
        polling.is_on | std::mem::take(&mut polling.owes_poll)
    }

    /// Learns from a wait that began at `begin`.
    pub(super) fn adapt_polling(&self, begin: i64) {
        let params = *lock(&self.reactor.poll_params);
        let waited = Clock::Realtime.now_ns() - begin;
        let budget = &mut self.home().adaptive_poll.budget;
        budget.waited(waited, params);
    }

    /// True when polling found work and the epoll set was looked at lately, so that this turn need not do so.
    pub(super) fn may_skip_wait(&self) -> bool {
        let home = &mut *self.home();
        let skip = !home.batch.is_empty() && home.adaptive_poll.skipped < SKIPS;
        home.adaptive_poll.skipped = if skip {
            home.adaptive_poll.skipped + 1
        } else {
            0
        };
        skip
    }

    /// True when something was found before the time was over.
    fn spin(&self, until: i64) -> bool {
        loop {
            if self.poll_once() || self.is_wanted() {
                return true;
            }
            if Clock::Realtime.now_ns() >= until {
                return false;
            }
            std::hint::spin_loop();
        }
    }

    /// True when there is work that is not a polled handler's.
    fn is_wanted(&self) -> bool {
        self.reactor.state.is_notified()
            || !self.reactor.kicked.is_empty()
            || self.has_pollable_io()
    }

    /// Polls every handler once; those with work go to the batch.
    fn poll_once(&self) -> bool {
        let mut found = false;
        let mut index = 0;
        loop {
            let record = self
                .home()
                .adaptive_poll
                .handlers
                .get(index)
                .map(|one| Arc::clone(&one.record));
            let Some(record) = record else { return found };
            index += 1;
            if !record.is_removed() && record.io_poll() {
                found = true;
                let mut home = self.home();
                home.batch.push_back((record, POLLED));
                if let Some(handler) = home.adaptive_poll.handlers.get_mut(index - 1) {
                    handler.since = i64::MAX;
                }
            }
        }
    }

    /// Takes out the handlers that are removed or found nothing for long.
    fn remove_idle(&self, now: i64) {
        let mut home = self.home();
        let polling = &mut home.adaptive_poll;
        let is_on = polling.is_on;
        let since = polling.notifier.map(|since| since.min(now));
        polling.notifier = since.filter(|since| now - since <= IDLE_NS);
        for handler in polling
            .handlers
            .iter_mut()
            .filter(|handler| handler.since == i64::MAX)
        {
            handler.since = now;
        }
        let is_idle =
            |one: &mut PolledHandler| one.record.is_removed() || now - one.since > IDLE_NS;
        let idle: Vec<_> = polling
            .handlers
            .extract_if(.., is_idle)
            .map(|one| one.record)
            .collect();
        drop(home);
        for record in idle.iter().filter(|record| is_on && !record.is_removed()) {
            record.switch_polling(false);
            if record.io_poll() {
                self.home().batch.push_back((Arc::clone(record), POLLED));
            }
        }
    }

    /// Calls the switch of every handler, because polling starts or stops.
    fn switch_polling(&self, is_on: bool) {
        let mut home = self.home();
        if home.adaptive_poll.is_on == is_on {
            return;
        }
        home.adaptive_poll.is_on = is_on;
        let records: Vec<_> = home
            .adaptive_poll
            .handlers
            .iter()
            .map(|one| Arc::clone(&one.record))
            .collect();
        drop(home);
        for record in records {
            record.switch_polling(is_on);
        }
    }
}

/// The order that loses no kick: notifications go on, then every handler is polled a last time.
fn leave_poll_mode(notifications_on: impl FnOnce(), poll: impl FnOnce() -> bool) -> bool {
    notifications_on();
    poll()
}

impl FdRecord {
    /// Polls a handler that has moved away from the home that polled it.
    pub(super) fn poll_after_move(self: &Arc<Self>) {
        if !self.is_removed() && self.io_poll() {
            self.call_or_remove(self.handler.io_poll_ready.as_deref());
        }
    }

    /// Calls the handler's `io_poll`.
    fn io_poll(self: &Arc<Self>) -> bool {
        let poll = self.handler.io_poll.as_deref();
        poll.is_some_and(|poll| self.ask_or_remove(poll))
    }

    /// Calls the handler's switch, if polling was not in that state before.
    fn switch_polling(self: &Arc<Self>, is_on: bool) {
        if self.is_removed() || self.set_notifications_off(is_on) == is_on {
            return;
        }
        if let Some(switch) = self.switch() {
            self.call_or_remove(Some(&|| switch.0(is_on)));
        }
    }
}

#[cfg(all(test, loom))]
mod model;
