//! One turn of a reactor, by its own wait or in the three steps of a GSource.
#![allow(unsafe_code)] // taken bottom halves and attachments are raw pointers; timerfd(2)

use super::fd_table::Batch;
use super::{Attachment, Driving, Home, Reactor, TIMER, Wait};
use crate::aio::bh::{self, BhNode, Ran};
use crate::aio::handler::FdRecord;
use crate::aio::lock;
use crate::poller::POLLED;
use crate::poller::epoll::Event;
use crate::unwind;
use crate::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// An idle bottom half is not kept waiting longer.
const IDLE_BH_NS: i64 = 10_000_000;

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
        if self.io.get().is_none() {
            self.open()?;
        }
        self.ask_paused(&driving);
        self.reap(&driving);
        self.submit_io(&driving);
        if self.home.get(&driving).batch.is_empty() {
            self.wait(&driving, wait, limit_ns);
        }
        Ok(self.run_ready(&driving))
    }

    /// Fills the batch: by busy-polling, by the kernel, or both.
    fn wait(&self, driving: &Driving<'_>, wait: Wait, limit_ns: Option<i64>) {
        let polling_since = self.poll_busily(driving, wait, limit_ns);
        if self.may_skip_wait(driving) {
            return;
        }
        let timeout = self.timeout_ns(driving, wait, limit_ns);
        if wait == Wait::Block || !self.is_pollable() {
            self.collect(driving, timeout);
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
        self.state.accept();
        self.collect_ready(driving);
        let mut progress = self.run_bhs(driving);
        progress |= self.complete_io(driving);
        progress |= self.run_handlers(driving);
        progress |= self.run_timers();
        self.submit_io(driving);
        self.reap(driving);
        progress
    }

    /// How long to block. Ends in the sleeping state when the answer is not 0 (invariant 2 of the reactor).
    fn timeout_ns(&self, driving: &Driving<'_>, wait: Wait, limit_ns: Option<i64>) -> i64 {
        if wait == Wait::NoBlock || !self.state.sleep() {
            return 0;
        }
        self.collect_ready(driving);
        if self.has_work(driving) || self.has_retired() {
            return 0;
        }
        if self.has_always_ready() {
            return 0;
        }
        let mut bound = limit_ns.unwrap_or(i64::MAX);
        if self.has_idle_bh(driving) {
            bound = bound.min(IDLE_BH_NS);
        }
        if let Some(remaining) = self.remaining_ns() {
            bound = bound.min(remaining);
        }
        if bound == i64::MAX { -1 } else { bound }
    }

    /// Waits and puts what is ready into the batch.
    fn collect(&self, driving: &Driving<'_>, timeout_ns: i64) {
        let Some(io) = self.io.get() else { return };
        let mut events = self.events.get(driving);
        let count = io.epoll.wait(&mut events[..], timeout_ns);
        if count == 0 && !self.has_always_ready() {
            return;
        }
        let trouble = self.sort_events(&mut self.home.get(driving), &events[..count]);
        drop(events);
        if let Err(error) = trouble {
            super::report([error]);
        }
    }

    fn sort_events(&self, home: &mut Home, events: &[Event]) -> Result<()> {
        let mut outcome = Ok(());
        for event in events {
            let (token, ready) = (event.u64, event.events);
            match token {
                super::WAKE | super::RING => {}
                TIMER => home.timer_fd_deadline = i64::MAX,
                _ => match home.known.find(token) {
                    Some(record) => home.batch.push_back((Arc::clone(record), ready)),
                    None => outcome = outcome.and(self.look_up(home, event)),
                },
            }
        }
        if self.has_always_ready() {
            lock(&self.fds).collect_always_ready(&mut home.batch);
        }
        outcome
    }

    /// Finds the handlers of an event in the table, and remembers one that is alone.
    fn look_up(&self, home: &mut Home, event: &Event) -> Result<()> {
        let mut fds = lock(&self.fds);
        if let Some(record) = fds.sole(event.u64) {
            home.known.learn(event.u64, record);
        }
        fds.collect(event, &mut home.batch)
    }

    /// True when some fd that epoll refuses is watched, so that no wait may block.
    pub(super) fn has_always_ready(&self) -> bool {
        self.counts.always_ready.load(Ordering::Acquire) > 0
    }

    /// Takes the scheduled bottom halves of every context that was kicked.
    #[inline]
    pub(crate) fn collect_ready(&self, driving: &Driving<'_>) {
        if !self.ready.is_empty() {
            self.collect_kicked(driving);
        }
    }

    fn collect_kicked(&self, driving: &Driving<'_>) {
        let mut kicked = self.ready.take();
        loop {
            let attachment: *mut Attachment = kicked.pop();
            if attachment.is_null() {
                return;
            }
            // SAFETY: the list owned a count, which is ours now.
            let attachment = unsafe { Arc::from_raw(attachment) };
            // Before the bottom halves are taken, so that a later one kicks again.
            attachment.queued.release();
            self.take_bhs(attachment, driving);
        }
    }

    fn take_bhs(&self, attachment: Arc<Attachment>, driving: &Driving<'_>) {
        if !attachment.core.is_on(self) {
            return;
        }
        attachment
            .core
            .slice
            .get(driving)
            .append(attachment.core.bhs.take());
        if !attachment.active.swap(true, Ordering::Relaxed) {
            self.home.get(driving).active.push_back(attachment);
        }
    }

    fn has_urgent_bh(&self, driving: &Driving<'_>) -> bool {
        self.any_bh(driving, BhNode::is_urgent)
    }

    fn has_idle_bh(&self, driving: &Driving<'_>) -> bool {
        self.any_bh(driving, BhNode::is_scheduled)
    }

    fn any_bh(&self, driving: &Driving<'_>, found: impl Fn(&BhNode) -> bool) -> bool {
        let home = self.home.get(driving);
        home.active
            .iter()
            .any(|attachment| attachment.core.slice.get(driving).any(&found))
    }

    /// Runs the taken bottom halves of all contexts. A nested iteration runs the rest of this one's.
    fn run_bhs(&self, driving: &Driving<'_>) -> bool {
        let mut progress = false;
        while let Some(attachment) = self.first_active(driving) {
            progress |= run_slice(&attachment, driving);
            self.leave_active(&attachment, driving);
        }
        progress
    }

    fn first_active(&self, driving: &Driving<'_>) -> Option<Arc<Attachment>> {
        self.home.get(driving).active.front().cloned()
    }

    /// `attachment` has nothing left, unless a nested iteration has found that out already.
    fn leave_active(&self, attachment: &Arc<Attachment>, driving: &Driving<'_>) {
        let mut home = self.home.get(driving);
        if home
            .active
            .front()
            .is_some_and(|front| Arc::ptr_eq(front, attachment))
        {
            home.active.pop_front();
            attachment.active.store(false, Ordering::Relaxed);
        }
    }

    /// Asks the handlers that did not want to read whether they do now.
    fn ask_paused(&self, driving: &Driving<'_>) {
        let mut home = self.home.get(driving);
        if home.paused.is_empty() {
            return;
        }
        let paused = std::mem::take(&mut home.paused);
        drop(home);
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
            if record.wants_write(events) && !record.is_removed() && self.has_handler(&record) {
                progress |= !record.handler.quiet;
                call(&record, record.handler.write.as_deref());
            }
            // It may have been removed and reaped meanwhile.
            if Arc::strong_count(&record) == 1 {
                unwind::drop_guarded(&"destructor of an fd handler", record);
            }
        }
    }

    /// True unless the handler's own callback has moved its context elsewhere.
    fn has_handler(&self, record: &FdRecord) -> bool {
        record.core.upgrade().is_some_and(|core| core.is_on(self))
    }

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
        self.home.get(driving).collected = false;
        self.stop_polling(driving);
        self.ask_paused(driving);
        self.reap(driving);
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
        Some(if self.has_idle_bh(driving) { 10 } else { -1 })
    }

    /// GSource check: true when there is something to dispatch. `readable` is what GLib's poll said of the epoll set.
    pub(crate) fn check(&self, driving: &Driving<'_>, readable: bool) -> bool {
        if self.home.get(driving).served {
            return false;
        }
        if readable && self.home.get(driving).batch.is_empty() {
            self.collect(driving, 0);
        }
        self.home.get(driving).collected = true;
        let notified = self.state.accept();
        self.collect_ready(driving);
        notified
            || self.has_work(driving)
            || self.has_idle_bh(driving)
            || self.remaining_ns() == Some(0)
    }

    /// GSource dispatch.
    pub(crate) fn dispatch(&self, driving: &Driving<'_>) {
        let collected = std::mem::replace(&mut self.home.get(driving).collected, true);
        if !collected && self.home.get(driving).batch.is_empty() {
            self.collect(driving, 0);
        }
        self.run_ready(driving);
    }

    /// Runs `ask` (a look at the GMainContext this reactor's source is attached to) with the source silent, because the
    /// caller serves the reactor itself.
    pub fn ask_glib<T>(&self, driving: &Driving<'_>, ask: impl FnOnce() -> T) -> T {
        self.home.get(driving).served = true;
        let answer = ask();
        self.home.get(driving).served = false;
        answer
    }

    fn has_work(&self, driving: &Driving<'_>) -> bool {
        !self.home.get(driving).batch.is_empty()
            || self.has_urgent_bh(driving)
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

fn run_slice(attachment: &Attachment, driving: &Driving<'_>) -> bool {
    let mut progress = false;
    *attachment.core.slices.get(driving) += 1;
    while !attachment.gone.load(Ordering::Relaxed) {
        let node = attachment.core.slice.get(driving).pop();
        if node.is_null() {
            break;
        }
        // SAFETY: the node was just taken, and `driving` says that this is the home thread.
        progress |= unsafe { bh::run(node) } == Ran::Progress;
    }
    *attachment.core.slices.get(driving) -= 1;
    progress
}

fn may_read(record: &Arc<FdRecord>) -> bool {
    match &record.handler.read_poll {
        Some(question) => unwind::guard(record, question).unwrap_or_else(|_| {
            remove(record);
            false
        }),
        None => true,
    }
}

pub(super) fn call(record: &Arc<FdRecord>, callback: Option<&(dyn Fn() + Send)>) {
    if let Some(callback) = callback
        && unwind::guard(record, callback).is_err()
    {
        remove(record);
    }
}

/// Removes a handler that has panicked.
pub(super) fn remove(record: &Arc<FdRecord>) {
    if let Some(core) = record.core.upgrade() {
        core.remove_record(record);
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
