//! The epoll set in the ring: the request that waits for it, and the wait of a home for both.
//!
//! The request is put into the ring when a wait needs it and ends with the first events, so a handler that has not read
//! everything is found by the next one. While it stands, a look that finds nothing is two loads.
//!
//! A wait with nothing in flight and no request standing is made in the epoll set itself: that is faster than to submit the
//! request for it (by a fifth, on Linux 6.18), and a process that idles there does not count as waiting for I/O.
//!
//! # Invariants
//! 1. While the request stands, the kernel may write the events. No other code uses them then, and they are not freed.
#![allow(unsafe_code)] // the kernel writes to a buffer of ours

use super::{HomeRing, OWN, USER_BITS, USER_MASK};
use crate::Clock;
use crate::poller::epoll::{Epoll, Event};
use crate::poller::{EVENTS, READABLE};
use io_uring::{opcode, squeue, types};
use std::io;
use std::os::fd::AsRawFd;

/// `user_data` of the request that waits.
const WAITING: u64 = (OWN as u64) << USER_BITS;
/// `user_data` of the request that cancels it.
pub(super) const CANCELLING: u64 = WAITING | 1;

/// How long the end of a ring waits for the end of another thread's request.
const PATIENCE_NS: i64 = 1_000_000_000;

/// The request.
pub(super) struct Watch {
    state: WatchState,
    /// What the kernel writes to.
    events: Box<[Event; EVENTS]>,
    /// What a wait outside of the ring writes to while the request of another thread stands there.
    outside: Option<Box<[Event; EVENTS]>>,
}

fn no_events() -> Box<[Event; EVENTS]> {
    Box::new([Event { events: 0, u64: 0 }; EVENTS])
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WatchState {
    None,
    Standing,
    /// Ended with that answer.
    Ended(i32),
}

impl Watch {
    pub(super) fn new() -> Watch {
        Watch {
            state: WatchState::None,
            events: no_events(),
            outside: None,
        }
    }

    /// Room that the kernel does not write to by itself.
    fn free_events(&mut self) -> &mut [Event] {
        if self.is_standing() {
            &mut self.outside.get_or_insert_with(no_events)[..]
        } else {
            self.outside = None;
            &mut self.events[..]
        }
    }

    /// The kernel may write to the events at any time.
    pub(super) fn is_standing(&self) -> bool {
        self.state == WatchState::Standing
    }

    /// One of the ring's own requests has completed.
    pub(super) fn end(&mut self, user_data: u64, result: i32) {
        if user_data & USER_MASK == WAITING & USER_MASK {
            self.state = WatchState::Ended(result);
        }
    }
}

impl HomeRing {
    /// Submits what was pushed, and waits for at most `timeout_ns` (negative: for ever) until `epoll` has events or a request
    /// has completed. The number of events, which [`HomeRing::events`] shows.
    ///
    /// # Errors
    /// The kernel's, when it refuses the thread; from then on the set is waited for by itself.
    pub(crate) fn wait(&mut self, epoll: &Epoll, timeout_ns: i64) -> io::Result<usize> {
        if self.refused {
            return Ok(self.wait_outside(epoll, timeout_ns));
        }
        let waited = self.wait_in_ring(epoll, timeout_ns);
        if waited.is_err() {
            self.refused = true;
        }
        waited
    }

    /// The wait of a thread that the ring refuses. What the request has ended with, perhaps by the end of its thread, is
    /// seen without a system call.
    fn wait_outside(&mut self, epoll: &Epoll, timeout_ns: i64) -> usize {
        self.reap();
        let found = self.take_events(epoll);
        if found > 0 {
            return found;
        }
        epoll.wait(self.watch.free_events(), timeout_ns)
    }

    fn wait_in_ring(&mut self, epoll: &Epoll, timeout_ns: i64) -> io::Result<usize> {
        self.reap();
        let mut found = self.take_events(epoll);
        if found > 0 || !self.taken.is_empty() || timeout_ns == 0 {
            return self.look(epoll, found);
        }
        let idle = self.in_flight == 0 && self.uring.submission().is_empty();
        if idle && !self.abilities.no_iowait {
            found = self.withdraw(epoll)?;
            if found > 0 {
                return Ok(found);
            }
        }
        if idle && !self.watch.is_standing() {
            return Ok(epoll.wait(&mut self.watch.events[..], timeout_ns));
        }
        self.stand(epoll);
        self.enter(1, timeout_ns)?;
        self.reap();
        Ok(self.take_events(epoll))
    }

    /// The wait that does not block, after `found` events.
    fn look(&mut self, epoll: &Epoll, found: usize) -> io::Result<usize> {
        // The events that were found must be handled before the kernel may write others.
        if found == 0 {
            self.stand(epoll);
        }
        if self.uring.submission().is_empty() && !self.owes() {
            return Ok(found);
        }
        self.enter(0, 0)?;
        self.reap();
        Ok(if found == 0 {
            self.take_events(epoll)
        } else {
            found
        })
    }

    /// The first `count` events that a wait has found.
    pub(crate) fn events(&self, count: usize) -> &[Event] {
        let events = self.watch.outside.as_ref().unwrap_or(&self.watch.events);
        &events[..count]
    }

    /// The events of the request that has ended.
    fn take_events(&mut self, epoll: &Epoll) -> usize {
        let WatchState::Ended(result) = self.watch.state else {
            return 0;
        };
        self.watch.state = WatchState::None;
        self.watch.outside = None;
        match usize::try_from(result) {
            Ok(count) if self.abilities.epoll_wait => count,
            Ok(_) => epoll.wait(&mut self.watch.events[..], 0),
            Err(_) => 0,
        }
    }

    /// Lets the request stand in the ring.
    fn stand(&mut self, epoll: &Epoll) {
        if self.watch.state != WatchState::None {
            return;
        }
        let set = types::Fd(epoll.as_raw_fd());
        let entry: squeue::Entry = if self.abilities.epoll_wait {
            let count = u32::try_from(EVENTS).unwrap_or(u32::MAX);
            opcode::EpollWait::new(set, self.watch.events.as_mut_ptr().cast(), count).build()
        } else {
            opcode::PollAdd::new(set, READABLE).build()
        };
        // SAFETY: invariant 1; the set lives as long as the reactor, which owns the ring.
        let pushed = unsafe { self.push(&entry.user_data(WAITING)) };
        // A full queue is the kernel's refusal to take more for now; it is tried again at the next wait.
        if pushed.is_ok() {
            self.watch.state = WatchState::Standing;
        }
    }

    /// Takes the request back, so that the set can be waited for elsewhere. The number of events it has ended with.
    ///
    /// # Errors
    /// As for [`HomeRing::wait`].
    pub(crate) fn withdraw(&mut self, epoll: &Epoll) -> io::Result<usize> {
        self.cancel()?;
        Ok(self.take_events(epoll))
    }

    fn cancel(&mut self) -> io::Result<()> {
        let mut entered = Ok(());
        if self.watch.is_standing() && !self.refused {
            let entry = opcode::AsyncCancel::new(WAITING).build();
            // SAFETY: the request names no memory.
            if unsafe { self.push(&entry.user_data(CANCELLING)) }.is_ok() {
                entered = self.enter(0, 0);
            }
        }
        self.reap();
        entered
    }
}

impl HomeRing {
    /// Ends the request. Another thread's may need that thread to pass through the kernel, which the cancellation makes it do.
    pub(super) fn end_watch(&mut self) {
        let _ = self.cancel();
        let give_up = Clock::Realtime.now_ns() + PATIENCE_NS;
        while self.watch.is_standing() {
            let left = give_up - Clock::Realtime.now_ns();
            if left <= 0 || self.enter(1, left).is_err() {
                return;
            }
            self.reap();
        }
    }

    /// True when the kernel may write to the events after the ring has been closed (invariant 1): the thread whose request
    /// stands lives on. Not with DEFER_TASKRUN, for then it would have to enter the ring, as io_uring_setup(2) has it, and a
    /// closed ring's requests are cancelled elsewhere.
    pub(super) fn may_be_written_to(&self) -> bool {
        self.watch.is_standing() && self.abilities.epoll_wait && !self.abilities.deferred
    }
}

impl Drop for HomeRing {
    fn drop(&mut self) {
        self.end_watch();
        if self.may_be_written_to() {
            Box::leak(std::mem::replace(&mut self.watch.events, no_events()));
        }
    }
}
