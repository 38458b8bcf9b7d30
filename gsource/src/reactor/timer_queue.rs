//! The armed timers of a reactor, by clock.
#![forbid(unsafe_code)]

use super::tenant::Tenant;
use super::timer::TimerNode;
use super::{Driving, Reactor};
use crate::Clock;
use crate::clock::CLOCKS;
use crate::deadline::{DeadlineQueue, Item, NOWHERE};
use crate::panic_boundary;
use crate::sync::Ordering;
use crate::sync::lock;
use crate::sync::{Mutex, MutexGuard};
use std::sync::Arc;

/// One queue per clock.
pub(super) struct TimerQueues([DeadlineQueue<Arc<TimerNode>>; CLOCKS]);

impl TimerQueues {
    pub(super) const fn new() -> Self {
        TimerQueues([const { DeadlineQueue::new() }; CLOCKS])
    }

    fn len(&self) -> usize {
        self.0.iter().map(DeadlineQueue::len).sum()
    }

    fn queue(&mut self, clock: Clock) -> &mut DeadlineQueue<Arc<TimerNode>> {
        &mut self.0[clock as usize]
    }

    /// Nanoseconds until the first timer of a running clock is due; `None` when none is armed.
    fn remaining_ns(&self) -> Option<i64> {
        Clock::ALL
            .into_iter()
            .zip(&self.0)
            .filter(|(clock, _)| clock.fires_timers())
            .filter_map(|(clock, queue)| {
                let remaining = (queue.first()? - clock.now_ns()).max(0);
                // A clock that stands still comes no nearer to a deadline.
                (remaining == 0 || clock.is_running()).then_some(remaining)
            })
            .min()
    }

    fn take_out(&mut self, timer: &Arc<TimerNode>) {
        if timer.place() != NOWHERE {
            self.queue(timer.clock).remove(timer.place());
        }
    }

    /// Arms a timer anew or for the first time; true when it became the first of its clock.
    fn arm(&mut self, timer: &Arc<TimerNode>, deadline: i64) -> bool {
        if self.queue(timer.clock).change(timer.place(), deadline) {
            return timer.place() == 0;
        }
        self.put_in(timer, deadline)
    }

    /// Adds a timer; true when it became the first of its clock.
    fn put_in(&mut self, timer: &Arc<TimerNode>, deadline: i64) -> bool {
        let queue = self.queue(timer.clock);
        queue.insert(deadline, Arc::clone(timer));
        timer.place() == 0
    }
}

impl Reactor {
    /// Arms `timer`; false when its tenant is on another reactor by now.
    pub(crate) fn arm(&self, timer: &Arc<TimerNode>, deadline: i64) -> bool {
        let mut timers = lock(&self.timers);
        if !timer.tenant.is_on(self) {
            return false;
        }
        let first = timers.arm(timer, deadline);
        self.count_timers(&timers);
        drop(timers);
        if first && !self.is_driven_here() {
            self.wake_if_sleeping();
        }
        true
    }

    /// Cancels `timer`; false when its tenant is on another reactor by now.
    pub(crate) fn cancel(&self, timer: &Arc<TimerNode>) -> bool {
        let mut timers = lock(&self.timers);
        let here = timer.tenant.is_on(self);
        if here {
            timers.take_out(timer);
            self.count_timers(&timers);
        }
        drop(timers);
        here
    }

    /// Sets `deadline` to what `timer` is armed for; false when its tenant is on another reactor by now.
    pub(crate) fn deadline_of(&self, timer: &Arc<TimerNode>, deadline: &mut Option<i64>) -> bool {
        let mut timers = lock(&self.timers);
        let here = timer.tenant.is_on(self);
        if here {
            *deadline = timers.queue(timer.clock).deadline(timer.place());
        }
        drop(timers);
        here
    }

    /// Moves the timers of `tenant` from `old` to `new`. `rebind` is called under the locks of both, so a thread that arms a timer
    /// finds the tenant before or after the move.
    pub(crate) fn move_timers(
        old: &Reactor,
        new: &Reactor,
        tenant: &Arc<Tenant>,
        rebind: impl FnOnce(),
    ) {
        let (mut from, mut to) = lock_both(&old.timers, &new.timers);
        rebind();
        for clock in Clock::ALL {
            for (deadline, timer) in from
                .queue(clock)
                .extract(|timer| Arc::ptr_eq(&timer.tenant, tenant))
            {
                to.put_in(&timer, deadline);
            }
        }
        old.count_timers(&from);
        new.count_timers(&to);
    }

    /// Disarms all timers of `tenant`.
    pub(crate) fn drop_timers(&self, tenant: &Tenant) {
        let mut timers = lock(&self.timers);
        let dropped: Vec<_> = Clock::ALL
            .into_iter()
            .flat_map(|clock| {
                timers
                    .queue(clock)
                    .extract(|timer| std::ptr::eq(Arc::as_ptr(&timer.tenant), tenant))
            })
            .collect();
        self.count_timers(&timers);
        drop(timers);
        panic_boundary::drop_guarded(&"destructor of a timer", dropped);
    }

    /// The first deadline on `clock` that is later than `time`.
    pub(super) fn deadline_after(&self, clock: Clock, time: i64) -> Option<i64> {
        lock(&self.timers).queue(clock).first_after(time)
    }

    /// Nanoseconds until the first timer is due; `None` when none bounds the wait.
    #[inline]
    pub(super) fn remaining_ns(&self) -> Option<i64> {
        if self.has_timers() {
            self.ask_timers()
        } else {
            None
        }
    }

    #[inline(never)]
    fn ask_timers(&self) -> Option<i64> {
        lock(&self.timers).remaining_ns()
    }

    /// True when a timer is armed. A home that has announced its sleep sees the timers that were armed before: `wake_if_sleeping`
    /// has ordered their count before the sleep.
    fn has_timers(&self) -> bool {
        self.counts.timers.load(Ordering::Relaxed) > 0
    }

    fn count_timers(&self, timers: &TimerQueues) {
        self.counts.timers.store(timers.len(), Ordering::Relaxed);
    }

    /// The bounds of a pass over the due timers of `clock`; `None` when none is armed.
    fn due_pass(&self, clock: Clock) -> Option<(i64, u64)> {
        let mut timers = lock(&self.timers);
        let queue = timers.queue(clock);
        let pass = queue
            .first()
            .map(|_| (clock.now_ns(), queue.next_sequence()));
        drop(timers);
        pass
    }

    fn pop_due(&self, clock: Clock, (now, sequence): (i64, u64)) -> Option<Arc<TimerNode>> {
        let mut timers = lock(&self.timers);
        let timer = timers.queue(clock).pop_due(now, sequence);
        self.count_timers(&timers);
        drop(timers);
        timer
    }
}

impl Driving<'_> {
    /// Fires what is due; true when something was. Timers that are armed meanwhile wait for the next turn.
    #[inline]
    pub(super) fn run_timers(&self) -> bool {
        self.reactor.has_timers() && self.run_due_timers()
    }

    #[inline(never)]
    fn run_due_timers(&self) -> bool {
        let mut progress = false;
        for clock in Clock::ALL.into_iter().filter(|clock| clock.fires_timers()) {
            progress |= self.run_timers_of(clock);
        }
        progress
    }

    /// Fires what is due on `clock`.
    pub(super) fn run_timers_of(&self, clock: Clock) -> bool {
        let Some(pass) = self.reactor.due_pass(clock) else {
            return false;
        };
        let mut progress = false;
        while let Some(timer) = self.reactor.pop_due(clock, pass) {
            timer.fire();
            // It may have been dropped meanwhile, so that this is the last reference.
            panic_boundary::drop_guarded(&"destructor of a timer", timer);
            progress = true;
        }
        progress
    }
}

fn lock_both<'a, T>(a: &'a Mutex<T>, b: &'a Mutex<T>) -> (MutexGuard<'a, T>, MutexGuard<'a, T>) {
    if std::ptr::from_ref(a) < std::ptr::from_ref(b) {
        let first = lock(a);
        (first, lock(b))
    } else {
        let second = lock(b);
        (lock(a), second)
    }
}
