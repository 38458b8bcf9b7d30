//! One turn of a reactor, by its own wait or in the three steps of a GSource.
#![allow(unsafe_code)] // timerfd(2)

use super::fd_table::Batch;
use super::{Driving, Reactor, TIMER, Wait};
use crate::clock::last_tick_ns;
use crate::panic_boundary;
use crate::poller::POLLED;
use crate::reactor::fd_record::FdRecord;
use crate::sync::Ordering;
use crate::sync::lock;
use crate::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;

/// A foreign loop looks so often for completions that it is not told of.
const MUTE_IO_MS: i32 = 1;
/// An idle bottom half is not kept waiting longer.
pub(super) const IDLE_BH_NS: i64 = 10_000_000;

/// How many turns with bottom halves may follow each other without a look at the kernel.
const PUT_OFFS: u32 = 31;

/// Blocking turns that did without a look at the kernel. Any other turn ends the row.
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
        self.prepare_turn(&driving)?;
        if self.is_glib_waiting() {
            // The wake-up that the last turn has left for GLib must not end this wait.
            self.collect(&driving, 0);
        }
        if self.home.get(&driving).batch.is_empty() {
            self.wait(&driving, wait, limit_ns);
        } else {
            self.submit_io(&driving);
        }
        Ok(self.run_ready(&driving))
    }

    /// As [`Reactor::iterate`] without waiting, but only if something is there to be run: else `None`, and a notification
    /// is left for the iteration that follows.
    ///
    /// # Errors
    /// As for `iterate`.
    pub fn iterate_if_ready(&self) -> Result<Option<bool>> {
        let driving = self.drive()?;
        self.prepare_turn(&driving)?;
        if self.home.get(&driving).batch.is_empty() {
            self.collect(&driving, 0);
        } else {
            self.submit_io(&driving);
        }
        self.collect_ready(&driving);
        let ready = self.has_work(&driving) || self.remaining_ns() == Some(0);
        Ok(ready.then(|| self.run_ready(&driving)))
    }

    #[inline]
    fn prepare_turn(&self, driving: &Driving<'_>) -> Result<()> {
        if self.io.get().is_none() {
            self.open()?;
        }
        self.ask_paused(driving);
        self.reap(driving);
        self.submit_before_wait(driving);
        Ok(())
    }

    /// True when a blocking turn has bottom halves to run, as those before it had, and the kernel was asked lately. Then this
    /// turn need not ask: what is ready waits for [`PUT_OFFS`] turns at most, and not past the next clock tick.
    #[inline]
    fn may_put_off_wait(&self, driving: &Driving<'_>, wait: Wait) -> bool {
        self.collect_ready(driving);
        let put_off = &mut self.home.get(driving).put_off;
        if wait == Wait::NoBlock || !self.bhs.has_urgent(driving) {
            put_off.turns = PUT_OFFS;
            return false;
        }
        let tick = last_tick_ns();
        let may = put_off.turns < PUT_OFFS && put_off.since == tick;
        put_off.turns = if may { put_off.turns + 1 } else { 0 };
        put_off.since = tick;
        may
    }

    /// Fills the batch: by busy-polling, by the kernel, or both.
    fn wait(&self, driving: &Driving<'_>, wait: Wait, limit_ns: Option<i64>) {
        if !self.submits_by_waiting() && self.may_put_off_wait(driving, wait) {
            return;
        }
        let polling_since = self.poll_busily(driving, wait, limit_ns);
        if self.may_skip_wait(driving) {
            return;
        }
        let timeout = self.timeout_ns(driving, wait, limit_ns);
        if wait == Wait::Block || !self.is_pollable() {
            self.collect(driving, timeout);
        } else {
            self.submit_io(driving);
        }
        if let Some(begin) = polling_since
            && timeout != 0
        {
            self.adapt(driving, begin);
        }
    }

    /// True when polling sees everything a look at the kernel could show.
    fn is_pollable(&self) -> bool {
        self.counts.polls.load(Ordering::Acquire)
            && self.counts.unpollable.load(Ordering::Acquire) == 0
    }

    /// Runs everything that is ready; true when something that counts as progress was.
    fn run_ready(&self, driving: &Driving<'_>) -> bool {
        if self.state.accept() && self.counts.polls.load(Ordering::Acquire) {
            self.home.get(driving).adaptive_poll.note_notification();
        }
        self.collect_ready(driving);
        let mut progress = self.run_bhs(driving);
        progress |= self.complete_io(driving);
        progress |= self.run_handlers(driving);
        progress |= self.run_timers();
        self.submit_after_turn(driving);
        self.reap(driving);
        progress
    }

    /// How long to block. Ends in the sleeping state when the answer is not 0 (invariant 2 of the reactor).
    #[inline]
    fn timeout_ns(&self, driving: &Driving<'_>, wait: Wait, limit_ns: Option<i64>) -> i64 {
        if wait == Wait::NoBlock || self.bhs.has_urgent(driving) || !self.state.sleep() {
            return 0;
        }
        self.collect_ready(driving);
        if self.has_work(driving) || self.has_always_ready() {
            return 0;
        }
        let mut bound = limit_ns.unwrap_or(i64::MAX);
        if self.bhs.has_scheduled(driving) {
            bound = bound.min(IDLE_BH_NS);
        }
        if let Some(remaining) = self.remaining_ns() {
            bound = bound.min(remaining);
        }
        if bound == i64::MAX { -1 } else { bound }
    }

    /// Asks the handlers that did not want to read whether they do now.
    #[inline]
    fn ask_paused(&self, driving: &Driving<'_>) {
        if !self.home.get(driving).paused.is_empty() {
            self.ask_each_paused(driving);
        }
    }

    #[inline(never)]
    fn ask_each_paused(&self, driving: &Driving<'_>) {
        let paused = std::mem::take(&mut self.home.get(driving).paused);
        for record in paused {
            if record.is_removed() {
                continue;
            }
            if may_read(&record) {
                record.set_paused(false);
                self.change_fds(|fds| fds.update(&record));
            } else if !record.is_removed() {
                self.home.get(driving).paused.push(record);
            }
        }
    }

    /// Calls the ready handlers. A nested iteration calls the rest of this one's.
    fn run_handlers(&self, driving: &Driving<'_>) -> bool {
        let mut progress = false;
        loop {
            let Some((record, events)) = self.next_handler(driving) else {
                return progress;
            };
            if events & POLLED != 0 {
                progress |= self.run_polled(&record, driving);
                continue;
            }
            self.enroll(&record, driving);
            if record.wants_read(events) && !record.is_removed() {
                progress |= self.read(&record, driving);
            }
            if record.wants_write(events) && !record.is_removed() {
                progress |= !record.handler.quiet;
                call(&record, record.handler.write.as_deref());
            }
            let leftover = self.home.get(driving).fd_cache.give_back(record);
            // It may have been removed and reaped meanwhile.
            if let Some(last) = leftover.filter(|one| Arc::strong_count(one) == 1) {
                panic_boundary::drop_guarded(&"destructor of an fd handler", last);
            }
        }
    }

    /// Handles what busy-polling found. The handler is not polled again while it does, which may iterate.
    fn run_polled(&self, record: &Arc<FdRecord>, driving: &Driving<'_>) -> bool {
        if record.is_removed() {
            return false;
        }
        let enrolled = self.expel(record, driving);
        call(record, record.handler.io_poll_ready.as_deref());
        if enrolled && !record.is_removed() {
            self.enroll(record, driving);
        }
        true
    }

    #[inline]
    fn next_handler(&self, driving: &Driving<'_>) -> Option<<Batch as IntoIterator>::Item> {
        self.home.get(driving).batch.pop_front()
    }

    /// Calls the read callback, unless `read_poll` pauses it.
    fn read(&self, record: &Arc<FdRecord>, driving: &Driving<'_>) -> bool {
        let may_read = may_read(record);
        if record.is_removed() {
            return false;
        }
        if may_read {
            call(record, record.handler.read.as_deref());
        } else {
            record.set_paused(true);
            self.change_fds(|fds| fds.update(record));
            self.home.get(driving).paused.push(Arc::clone(record));
        }
        may_read && !record.handler.quiet
    }

    /// GSource prepare: the milliseconds GLib may block, or `None` when there is something to dispatch.
    pub(crate) fn prepare(&self, driving: &Driving<'_>) -> Option<i32> {
        if self.home.get(driving).served {
            return Some(-1);
        }
        self.counts.note_glib_turn();
        self.home.get(driving).collected = false;
        self.stop_polling(driving);
        self.ask_paused(driving);
        self.reap(driving);
        self.give_way(driving);
        self.submit_io(driving);
        // A notification alone ends an iteration, and so does what was notified.
        if self.state.accept() || !self.state.sleep() {
            return None;
        }
        self.collect_ready(driving);
        if self.has_work(driving) || self.has_always_ready() {
            return None;
        }
        match self.remaining_ns() {
            Some(0) => return None,
            remaining => self.arm_timer_fd(driving, remaining),
        }
        if self.has_mute_io(driving) {
            return Some(MUTE_IO_MS);
        }
        Some(if self.bhs.has_scheduled(driving) {
            10
        } else {
            -1
        })
    }

    /// GSource check: true when there is something to dispatch. `readable` is what GLib's poll said of the epoll set.
    pub(crate) fn check(&self, driving: &Driving<'_>, readable: bool) -> bool {
        if self.home.get(driving).served {
            return false;
        }
        if readable && self.home.get(driving).batch.is_empty() {
            self.look(driving);
        }
        self.fetch_io(driving);
        self.home.get(driving).collected = true;
        let notified = self.state.accept();
        self.collect_ready(driving);
        notified
            || self.has_work(driving)
            || self.bhs.has_scheduled(driving)
            || self.remaining_ns() == Some(0)
    }

    /// GSource dispatch.
    pub(crate) fn dispatch(&self, driving: &Driving<'_>) {
        let collected = std::mem::replace(&mut self.home.get(driving).collected, true);
        if !collected && self.home.get(driving).batch.is_empty() {
            self.look(driving);
        }
        self.run_ready(driving);
    }

    /// Runs `ask` (a look at the GMainContext this reactor's source is attached to) with the source silent, because the
    /// caller serves the reactor itself.
    ///
    /// # Panics
    /// The token is another reactor's.
    pub fn ask_glib<T>(&self, driving: &Driving<'_>, ask: impl FnOnce() -> T) -> T {
        driving.check(self);
        // What a nested GLib loop has left: its wait is over, though no check may have followed its last prepare.
        self.end_glib_wait();
        self.home.get(driving).served = true;
        let answer = ask();
        self.home.get(driving).served = false;
        answer
    }

    fn has_work(&self, driving: &Driving<'_>) -> bool {
        !self.home.get(driving).batch.is_empty()
            || self.bhs.has_urgent(driving)
            || self.has_ready_io(driving)
            || self.has_retired()
    }

    /// Lets a timerfd wake the foreign loop `remaining` nanoseconds from now; GLib's own timeouts have a millisecond's grain.
    fn arm_timer_fd(&self, driving: &Driving<'_>, remaining: Option<i64>) {
        let Some(remaining) = remaining else { return };
        let deadline = crate::Clock::Realtime.now_ns().saturating_add(remaining);
        let mut home = self.home.get(driving);
        if home.timer_fd_deadline.abs_diff(deadline) < 1_000 {
            return;
        }
        if home.timer_fd.is_none() {
            home.timer_fd = self
                .open_timer_fd()
                .inspect_err(|error| glib::g_warning!("qcontext", "{error}"))
                .ok();
        }
        if let Some(fd) = &home.timer_fd {
            set_timer_fd(fd, deadline);
            home.timer_fd_deadline = deadline;
        }
    }

    fn open_timer_fd(&self) -> Result<OwnedFd> {
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
        if fd < 0 {
            return Err(Error::last_os("cannot create a timerfd"));
        }
        // SAFETY: the kernel just gave us this fd.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        lock(&self.fds).watch_internal(fd.as_raw_fd(), TIMER)?;
        Ok(fd)
    }
}

fn may_read(record: &Arc<FdRecord>) -> bool {
    match &record.handler.read_poll {
        Some(question) => record.call(question).unwrap_or_else(|_| {
            record.remove();
            false
        }),
        None => true,
    }
}

pub(super) fn call(record: &Arc<FdRecord>, callback: Option<&(dyn Fn() + Send)>) {
    if let Some(callback) = callback
        && record.call(callback).is_err()
    {
        record.remove();
    }
}

fn set_timer_fd(fd: &OwnedFd, deadline: i64) {
    let never = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let value = libc::timespec {
        tv_sec: deadline / 1_000_000_000,
        tv_nsec: deadline % 1_000_000_000,
    };
    let spec = libc::itimerspec {
        it_interval: never,
        it_value: value,
    };
    // SAFETY: the fd is a timerfd and the spec is valid for the call.
    unsafe {
        libc::timerfd_settime(
            fd.as_raw_fd(),
            libc::TFD_TIMER_ABSTIME,
            &raw const spec,
            ptr::null_mut(),
        )
    };
}
