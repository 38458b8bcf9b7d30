//! The io_uring of a home: the requests of all its tenants, and with the io_uring poller the wait for its fds.
//!
//! Under another poller the ring's own fd is watched (a registered eventfd loses wake-ups when an eventfd caused the
//! completion), and requests are submitted at the end of a turn.
//!
//! # Threads
//! The ring belongs to the home.
//!
//! # Invariants
//! 1. The ring keeps a sink with requests in flight alive, and with it the memory that the sink keeps for the kernel.
//! 2. A slot is reused only when its sink is gone and no request of it is in flight.
#![allow(unsafe_code)] // submission entries name memory of the caller

mod setup;
#[cfg(test)]
mod tests;
mod watch;

use crate::poller::io_sink::{IoCompletion, IoSink};
use crate::sync::{AtomicUsize, Ordering};
use crate::{Error, ErrorKind, Result};
use io_uring::{EnterFlags, IoUring, opcode, squeue, types};
pub(crate) use setup::Abilities;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;
use watch::Watch;

/// The bits of `user_data` that are the caller's.
const USER_BITS: u32 = 48;
const USER_MASK: u64 = (1 << USER_BITS) - 1;
/// The slot of the ring's own requests.
const OWN: u16 = u16::MAX;
/// How long an ending home waits for a kernel that takes no submissions.
const STUCK_WAIT: Duration = Duration::from_millis(1);

struct Slot {
    sink: Weak<dyn IoSink>,
    /// Present while requests are in flight (invariant 1).
    alive: Option<Arc<dyn IoSink>>,
    in_flight: Arc<AtomicUsize>,
    /// Calls of the sink that have not returned, more than one with nested iterations.
    deliveries: usize,
}

impl Slot {
    /// True when no request and no call of the sink is left, and the sink is gone.
    fn is_free(&self) -> bool {
        self.alive.is_none() && self.deliveries == 0 && self.sink.strong_count() == 0
    }

    /// Counts one completion; the sink it is for.
    fn end_one(&mut self) -> Option<Arc<dyn IoSink>> {
        let sink = self.alive.clone();
        if self.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.alive = None;
        }
        sink
    }
}

/// How far the life of a ring is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RingStage {
    /// Not usable until its thread enables it.
    Disabled,
    Open,
    /// The home ends, and takes no more requests.
    Ending,
}

/// The ring and who uses it.
pub(crate) struct HomeRing {
    uring: IoUring,
    abilities: Abilities,
    stage: RingStage,
    slots: Vec<Slot>,
    /// Requests of the slots that have not completed.
    in_flight: usize,
    /// Completions taken from the kernel and not handed out yet: what they mean and their results.
    taken: VecDeque<(u64, i32)>,
    /// The kernel has not taken all submissions; try again soon.
    stuck: bool,
    /// The kernel does not let this thread wait in the ring.
    refused: bool,
    watch: Watch,
}

impl HomeRing {
    pub(crate) fn fd(&self) -> RawFd {
        self.uring.as_raw_fd()
    }

    /// The slot of the sink that counts with `in_flight`: the one at `hint`, or the one that it got earlier, or a new one.
    #[inline]
    pub(crate) fn slot_of(
        &mut self,
        hint: usize,
        sink: &Weak<dyn IoSink>,
        in_flight: &Arc<AtomicUsize>,
    ) -> Result<u16> {
        let is_own = |slot: &Slot| Arc::ptr_eq(&slot.in_flight, in_flight);
        let index = if self.slots.get(hint).is_some_and(is_own) {
            hint
        } else {
            let earlier = self.slots.iter().position(is_own);
            earlier.unwrap_or_else(|| self.add_slot(sink, in_flight))
        };
        u16::try_from(index)
            .ok()
            .filter(|&number| number != OWN)
            .ok_or_else(|| Error::new(ErrorKind::LimitExceeded, "too many users of one io_uring"))
    }

    fn add_slot(&mut self, sink: &Weak<dyn IoSink>, in_flight: &Arc<AtomicUsize>) -> usize {
        let slot = Slot {
            sink: Weak::clone(sink),
            alive: None,
            in_flight: Arc::clone(in_flight),
            deliveries: 0,
        };
        let free = self.slots.iter().position(Slot::is_free);
        let index = free.unwrap_or(self.slots.len());
        match self.slots.get_mut(index) {
            Some(place) => *place = slot,
            None => self.slots.push(slot),
        }
        index
    }

    /// Queues a request of a slot; [`HomeRing::begin`] follows.
    ///
    /// # Safety
    /// As for [`IoBatch::push`](crate::IoBatch::push).
    pub(crate) unsafe fn request(
        &mut self,
        slot: u16,
        user: u64,
        entry: squeue::Entry,
    ) -> Result<()> {
        if self.stage == RingStage::Ending {
            let message = "the context stops, and its io_uring takes no more requests";
            return Err(Error::new(ErrorKind::Closed, message));
        }
        let entry = entry.user_data(u64::from(slot) << USER_BITS | user & USER_MASK);
        // SAFETY: the caller's promise.
        unsafe { self.push(&entry) }
    }

    /// # Safety
    /// As for [`HomeRing::request`].
    unsafe fn push(&mut self, entry: &squeue::Entry) -> Result<()> {
        // SAFETY: the caller's promise.
        if unsafe { self.uring.submission().push(entry) }.is_ok() {
            return Ok(());
        }
        self.submit();
        // SAFETY: the caller's promise.
        unsafe { self.uring.submission().push(entry) }.map_err(|_| {
            Error::new(
                ErrorKind::LimitExceeded,
                "the io_uring takes no more requests",
            )
        })
    }

    pub(crate) fn begin(&mut self, slot: u16, sink: &Arc<dyn IoSink>) {
        self.in_flight += 1;
        let slot = &mut self.slots[usize::from(slot)];
        if slot.in_flight.fetch_add(1, Ordering::Relaxed) == 0 {
            slot.alive = Some(Arc::clone(sink));
        }
    }

    /// Gives the kernel what was pushed.
    pub(crate) fn submit(&mut self) {
        self.stuck = false;
        if !self.uring.submission().is_empty() {
            // An error is not of a request, and tried again: see `stuck`.
            let _ = self.enter(0, 0);
        }
    }

    /// One `io_uring_enter`: submits everything, and waits for `want` completions for at most `timeout_ns` (negative: for
    /// ever). What has completed is to be reaped, whatever the answer.
    fn enter(&mut self, want: u32, timeout_ns: i64) -> io::Result<()> {
        self.enable()?;
        let pushed = u32::try_from(self.uring.submission().len()).unwrap_or(u32::MAX);
        let flags = self.flags(want);
        let timeout = timespec(timeout_ns);
        let argument = GetEvents {
            timeout: if want > 0 && timeout_ns > 0 {
                &raw const timeout
            } else {
                ptr::null()
            },
            ..GetEvents::default()
        };
        let argument = (want > 0).then_some(&argument);
        // SAFETY: the argument is the kernel's extended one, and lives for the call as the timeout does.
        let entered = unsafe {
            self.uring
                .submitter()
                .enter(pushed, want, flags.bits(), argument)
        };
        let error = entered.err();
        self.stuck = !self.uring.submission().is_empty();
        match error.as_ref().and_then(io::Error::raw_os_error) {
            // EBUSY and EAGAIN: completions must be taken, or memory found, first.
            None | Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
            Some(_) => error.map_or(Ok(()), Err),
        }
    }

    fn flags(&mut self, want: u32) -> EnterFlags {
        let mut flags = EnterFlags::empty();
        if want > 0 {
            flags |= EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        }
        if want > 0 && self.in_flight == 0 && self.abilities.no_iowait {
            flags |= EnterFlags::NO_IOWAIT;
        }
        if self.abilities.deferred || self.owes() {
            flags |= EnterFlags::GETEVENTS;
        }
        flags
    }

    /// Makes the calling thread the ring's, the first time.
    fn enable(&mut self) -> io::Result<()> {
        if self.stage == RingStage::Disabled {
            self.uring.submitter().register_enable_rings()?;
            self.stage = RingStage::Open;
        }
        Ok(())
    }

    /// True when the kernel has completions that it brings only in a system call.
    fn owes(&mut self) -> bool {
        let queue = self.uring.submission();
        queue.taskrun() || queue.cq_overflow()
    }

    /// True when a blocking wait must be skipped: completions are there, or submissions are stuck.
    pub(crate) fn is_ready(&mut self) -> bool {
        self.stuck || self.has_completions()
    }

    fn has_completions(&mut self) -> bool {
        !self.taken.is_empty() || !self.uring.completion().is_empty()
    }

    /// As [`HomeRing::is_ready`], for busy-polling: completions that need a system call count.
    pub(crate) fn is_pollable(&mut self) -> bool {
        self.is_ready() || self.owes()
    }

    /// True when requests of the slots are in flight whose completions only a wait in the ring reports.
    pub(crate) fn is_silent(&self) -> bool {
        self.abilities.deferred && self.in_flight > 0
    }

    /// True when the ring's fd becomes readable by each completion.
    pub(crate) fn wakes_by_fd(&self) -> bool {
        !self.abilities.deferred
    }

    /// Takes no more requests from now on. True while requests are in flight.
    pub(crate) fn close(&mut self) -> bool {
        if self.stage == RingStage::Open {
            self.stage = RingStage::Ending;
        }
        self.in_flight > 0
    }

    /// Asks the kernel to cancel every request; those that have begun may complete all the same. False when the submission queue
    /// is full.
    pub(crate) fn cancel_all(&mut self) -> bool {
        let entry = opcode::AsyncCancel2::new(types::CancelBuilder::any()).build();
        // SAFETY: the request names no memory.
        unsafe { self.push(&entry.user_data(watch::CANCELLING)) }.is_ok()
    }

    /// Submits everything and waits for a completion, which may be one of the ring's own. If the kernel takes no submissions just
    /// now, for lack of memory, it does not wait either. Then this waits a moment.
    ///
    /// # Errors
    /// The kernel's, when it refuses the thread.
    pub(crate) fn wait_for_one(&mut self) -> io::Result<()> {
        if self.has_completions() {
            return Ok(());
        }
        self.enter(1, -1)?;
        if self.stuck && !self.has_completions() {
            thread::sleep(STUCK_WAIT);
        }
        Ok(())
    }

    /// Brings the completions that need a system call.
    pub(crate) fn fetch(&mut self) {
        if self.owes() {
            // As in `submit`.
            let _ = self.enter(0, 0);
        }
    }

    /// Takes the completions that the kernel has put into the ring.
    fn reap(&mut self) {
        for entry in self.uring.completion() {
            if slot_of(entry.user_data()) == usize::from(OWN) {
                self.watch.end(entry.user_data(), entry.result());
            } else {
                self.taken.push_back((entry.user_data(), entry.result()));
            }
        }
    }

    /// Takes the next completions that are for one sink, in the order of the kernel; they are put into `run`. The number goes to
    /// [`HomeRing::end_run`] when the sink has been called.
    pub(crate) fn next_run(
        &mut self,
        run: &mut Vec<IoCompletion>,
    ) -> Option<(usize, Arc<dyn IoSink>)> {
        if self.taken.is_empty() {
            self.reap();
        }
        let number = slot_of(self.taken.front()?.0);
        let mut sink = None;
        while let Some(&(user_data, result)) = self.taken.front()
            && slot_of(user_data) == number
        {
            self.taken.pop_front();
            self.in_flight = self.in_flight.saturating_sub(1);
            sink = self.slots.get_mut(number).and_then(Slot::end_one);
            run.push(IoCompletion {
                user: user_data & USER_MASK,
                result,
            });
        }
        if let Some(slot) = self.slots.get_mut(number) {
            slot.deliveries += 1;
        }
        sink.map(|sink| (number, sink))
    }

    /// The sink that [`HomeRing::next_run`] gave has returned.
    pub(crate) fn end_run(&mut self, number: usize) {
        if let Some(slot) = self.slots.get_mut(number) {
            slot.deliveries -= 1;
        }
    }

    /// How many requests of the queue that counts with `in_flight` have not completed, or are being delivered now.
    pub(crate) fn unfinished(&self, in_flight: &Arc<AtomicUsize>) -> usize {
        let own = |slot: &&Slot| Arc::ptr_eq(&slot.in_flight, in_flight);
        let slot = self.slots.iter().find(own);
        slot.map_or(0, |slot| {
            slot.in_flight.load(Ordering::Relaxed) + slot.deliveries
        })
    }
}

/// The kernel's `struct io_uring_getevents_arg`.
#[repr(C)]
struct GetEvents {
    signals: u64,
    signals_size: u32,
    least_wait_us: u32,
    timeout: *const types::Timespec,
}

impl Default for GetEvents {
    fn default() -> Self {
        GetEvents {
            signals: 0,
            signals_size: 0,
            least_wait_us: 0,
            timeout: ptr::null(),
        }
    }
}

fn timespec(ns: i64) -> types::Timespec {
    let duration = std::time::Duration::from_nanos(u64::try_from(ns).unwrap_or(0));
    types::Timespec::from(duration)
}

fn slot_of(user_data: u64) -> usize {
    usize::try_from(user_data >> USER_BITS).unwrap_or(usize::MAX)
}
