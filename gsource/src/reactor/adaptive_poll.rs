//! Adaptive busy-polling: before it sleeps, the home looks for work without system calls, for as long as that has paid off.
//!
//! A handler takes part when it has an `io_poll` and its fd has fired once, and the reactor's own notifier once it has ended
//! a wait; each leaves when seven seconds of polling found nothing. The time spent follows the waits: a wait that ended
//! within `max_ns` makes it grow, a longer one makes it shrink, so an idle machine soon does not poll at all, and polling that
//! finds nothing again and again has a rest (`pace`). While polling, handlers keep their peers' notifications off
//! (`FdHandler::io_poll_switch`); each is asked once more after they are on again, so that no notification is lost between.
#![forbid(unsafe_code)]

mod pace;

use super::turn::call;
use super::{Driving, Reactor, Wait};
use crate::poller::POLLED;
use crate::reactor::fd_record::FdRecord;
use crate::sync::Ordering;
use crate::sync::lock;
use crate::{Clock, Error, ErrorKind, Result};
use pace::Pace;
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

/// The home's polling.
#[derive(Default)]
pub(super) struct AdaptivePoll {
    enrolled: Vec<Enrolled>,
    /// Notifications are looked for; like [`Enrolled::since`].
    notifier: Option<i64>,
    /// Notifications are off.
    started: bool,
    /// Somebody's notifications have gone on without the last question.
    owes_question: bool,
    pace: Pace,
    skipped: u32,
}

impl AdaptivePoll {
    /// True when nobody takes part.
    pub(super) fn is_idle(&self) -> bool {
        self.enrolled.is_empty() && self.notifier.is_none()
    }

    /// Where polling is off, only what it has left behind.
    fn has_something_to_do(&self, polls: bool) -> bool {
        !self.is_idle() && (polls || self.started || self.owes_question)
    }

    /// Somebody has notified: that is worth looking for.
    pub(super) fn note_notification(&mut self) {
        self.notifier = Some(i64::MAX);
    }
}

struct Enrolled {
    record: Arc<FdRecord>,
    /// Polled in vain since then.
    since: i64,
}

impl Reactor {
    /// The polling parameters.
    pub fn poll_params(&self) -> PollParams {
        *lock(&self.poll_params)
    }

    /// Changes the polling parameters, from the next turn on.
    ///
    /// # Errors
    /// `InvalidArgument` when one is negative.
    pub fn set_poll_params(&self, params: PollParams) -> Result<()> {
        for (name, value) in [
            ("max-ns", params.max_ns),
            ("grow", params.grow),
            ("shrink", params.shrink),
        ] {
            if value < 0 {
                let message = format!("poll-{name} value must be in range [0, {}]", i64::MAX);
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
        }
        *lock(&self.poll_params) = params;
        self.counts
            .polls
            .store(params.max_ns > 0, Ordering::Release);
        self.notify();
        Ok(())
    }

    /// The fd of `record` has fired: from now on its `io_poll` is worth asking.
    #[inline]
    pub(super) fn enroll(&self, record: &Arc<FdRecord>, driving: &Driving<'_>) {
        if record.handler.io_poll.is_some() {
            self.enroll_polled(record, driving);
        }
    }

    #[inline(never)]
    fn enroll_polled(&self, record: &Arc<FdRecord>, driving: &Driving<'_>) {
        let polls = self.counts.polls.load(Ordering::Acquire);
        let was_told = record.is_told();
        if !(polls || was_told) {
            return;
        }
        // It may have been reaped already, and nobody would let go of it again.
        if record.is_removed() {
            return;
        }
        let mut home = self.home.get(driving);
        let enrolled = &mut home.adaptive_poll.enrolled;
        let is_in = enrolled
            .iter()
            .any(|other| Arc::ptr_eq(&other.record, record));
        if polls && !is_in {
            enrolled.push(Enrolled {
                record: Arc::clone(record),
                since: Clock::Realtime.now_ns(),
            });
        }
        let started = polls && home.adaptive_poll.started;
        home.adaptive_poll.owes_question |= was_told && !started;
        drop(home);
        // Not what it was told before, perhaps: its `io_poll_ready` may have iterated.
        switch(record, started);
    }

    /// Takes `record` out while its `io_poll_ready` runs, or for good. True when it was in.
    pub(crate) fn expel(&self, record: &Arc<FdRecord>, driving: &Driving<'_>) -> bool {
        let mut home = self.home.get(driving);
        let index = home
            .adaptive_poll
            .enrolled
            .iter()
            .position(|other| Arc::ptr_eq(&other.record, record));
        let gone = index.map(|index| home.adaptive_poll.enrolled.swap_remove(index));
        drop(home);
        gone.is_some()
    }

    /// Lets go of a handler that moves elsewhere; where it goes it is enrolled anew. True when its notifications were off:
    /// then it must be asked once more, there.
    pub(crate) fn stop_polling_of(&self, record: &Arc<FdRecord>, driving: &Driving<'_>) -> bool {
        let started = self.home.get(driving).adaptive_poll.started;
        let was_polled = self.expel(record, driving) && started;
        if was_polled {
            switch(record, false);
        }
        was_polled
    }

    /// Polls before a wait. What was found is in the batch; the time at which the polling began is what [`Reactor::adapt`]
    /// needs.
    #[inline]
    pub(super) fn poll_busily(
        &self,
        driving: &Driving<'_>,
        wait: Wait,
        limit_ns: Option<i64>,
    ) -> Option<i64> {
        if self.may_poll_busily(driving) {
            self.poll_enrolled(driving, wait, limit_ns)
        } else {
            None
        }
    }

    /// False when busy-polling has nothing to do before this wait.
    #[inline]
    pub(super) fn may_poll_busily(&self, driving: &Driving<'_>) -> bool {
        let polls = self.counts.polls.load(Ordering::Acquire);
        let busy = &self.home.get(driving).adaptive_poll;
        busy.has_something_to_do(polls)
    }

    #[inline(never)]
    fn poll_enrolled(
        &self,
        driving: &Driving<'_>,
        wait: Wait,
        limit_ns: Option<i64>,
    ) -> Option<i64> {
        let begin = Clock::Realtime.now_ns();
        self.dismiss_idle(driving, begin);
        let polls = self.counts.polls.load(Ordering::Acquire);
        let budget = if polls {
            self.home.get(driving).adaptive_poll.pace.now_ns()
        } else {
            0
        };
        let budget = [self.remaining_ns(), limit_ns]
            .into_iter()
            .flatten()
            .fold(budget, i64::min);
        if wait == Wait::NoBlock {
            self.ask_enrolled(driving);
            return None;
        }
        if budget > 0 {
            self.switch_all(driving, true);
            if self.spin(driving, begin + budget) {
                self.home.get(driving).adaptive_poll.pace.found();
            }
        }
        if self.home.get(driving).batch.is_empty() {
            self.stop_polling(driving);
        }
        polls.then_some(begin)
    }

    /// Leaves poll mode: notifications on, and one last question in case the last of them raced with that.
    pub(super) fn stop_polling(&self, driving: &Driving<'_>) {
        if self.takes_question(driving) {
            leave_poll_mode(
                || self.switch_all(driving, false),
                || self.ask_enrolled(driving),
            );
        }
    }

    /// True when enrolled handlers have been without notifications since they were asked.
    fn takes_question(&self, driving: &Driving<'_>) -> bool {
        let busy = &mut self.home.get(driving).adaptive_poll;
        busy.started | std::mem::take(&mut busy.owes_question)
    }

    /// Learns from a wait that began at `begin`.
    pub(super) fn adapt(&self, driving: &Driving<'_>, begin: i64) {
        let params = self.poll_params();
        let waited = Clock::Realtime.now_ns() - begin;
        let pace = &mut self.home.get(driving).adaptive_poll.pace;
        pace.waited(waited, params);
    }

    /// True when polling found work and the epoll set was looked at lately, so that this turn need not.
    pub(super) fn may_skip_wait(&self, driving: &Driving<'_>) -> bool {
        let home = &mut *self.home.get(driving);
        let skip = !home.batch.is_empty() && home.adaptive_poll.skipped < SKIPS;
        home.adaptive_poll.skipped = if skip {
            home.adaptive_poll.skipped + 1
        } else {
            0
        };
        skip
    }

    /// True when something was found before the time was over.
    fn spin(&self, driving: &Driving<'_>, until: i64) -> bool {
        loop {
            if self.ask_enrolled(driving) || self.is_called(driving) {
                return true;
            }
            if Clock::Realtime.now_ns() >= until {
                return false;
            }
            std::hint::spin_loop();
        }
    }

    /// True when something other than a polled handler wants the home.
    fn is_called(&self, driving: &Driving<'_>) -> bool {
        self.state.is_notified() || !self.ready.is_empty() || self.is_called_by_io(driving)
    }

    /// Asks every enrolled handler; those with work go to the batch.
    fn ask_enrolled(&self, driving: &Driving<'_>) -> bool {
        let mut found = false;
        let mut index = 0;
        loop {
            let record = self
                .home
                .get(driving)
                .adaptive_poll
                .enrolled
                .get(index)
                .map(|one| Arc::clone(&one.record));
            let Some(record) = record else { return found };
            index += 1;
            if !record.is_removed() && has_work(&record) {
                found = true;
                let mut home = self.home.get(driving);
                home.batch.push_back((record, POLLED));
                if let Some(enrolled) = home.adaptive_poll.enrolled.get_mut(index - 1) {
                    enrolled.since = i64::MAX;
                }
            }
        }
    }

    /// Drops handlers that are removed or found nothing for long.
    fn dismiss_idle(&self, driving: &Driving<'_>, now: i64) {
        let mut home = self.home.get(driving);
        let started = home.adaptive_poll.started;
        let since = home.adaptive_poll.notifier.map(|since| since.min(now));
        home.adaptive_poll.notifier = since.filter(|since| now - since <= IDLE_NS);
        for enrolled in home
            .adaptive_poll
            .enrolled
            .iter_mut()
            .filter(|enrolled| enrolled.since == i64::MAX)
        {
            enrolled.since = now;
        }
        let is_idle = |one: &mut Enrolled| one.record.is_removed() || now - one.since > IDLE_NS;
        let idle: Vec<_> = home
            .adaptive_poll
            .enrolled
            .extract_if(.., is_idle)
            .map(|one| one.record)
            .collect();
        drop(home);
        for record in idle.iter().filter(|record| started && !record.is_removed()) {
            switch(record, false);
            if has_work(record) {
                self.home
                    .get(driving)
                    .batch
                    .push_back((Arc::clone(record), POLLED));
            }
        }
    }

    fn switch_all(&self, driving: &Driving<'_>, polling: bool) {
        let mut home = self.home.get(driving);
        if home.adaptive_poll.started == polling {
            return;
        }
        home.adaptive_poll.started = polling;
        let records: Vec<_> = home
            .adaptive_poll
            .enrolled
            .iter()
            .map(|one| Arc::clone(&one.record))
            .collect();
        drop(home);
        for record in records {
            switch(&record, polling);
        }
    }
}

/// The order that loses no kick: notifications go on, then everybody is asked a last time.
fn leave_poll_mode(notifications_on: impl FnOnce(), ask: impl FnOnce() -> bool) -> bool {
    notifications_on();
    ask()
}

/// Asks a handler that has moved away from where it was polled.
pub(crate) fn ask_again(record: &Arc<FdRecord>) {
    if !record.is_removed() && has_work(record) {
        call(record, record.handler.io_poll_ready.as_deref());
    }
}

fn has_work(record: &Arc<FdRecord>) -> bool {
    let Some(poll) = &record.handler.io_poll else {
        return false;
    };
    record.call(poll).unwrap_or_else(|_| {
        record.remove();
        false
    })
}

/// Tells `record` whether it is polled, if that is news.
fn switch(record: &Arc<FdRecord>, polling: bool) {
    if record.is_removed() || record.tell(polling) == polling {
        return;
    }
    if let Some(switch) = record.switch()
        && record.call(|| switch.0(polling)).is_err()
    {
        record.remove();
    }
}

#[cfg(all(test, loom))]
mod model;
