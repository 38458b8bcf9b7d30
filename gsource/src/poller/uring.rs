//! The io_uring of a home: requests of all its AioContexts in one ring, submitted once per turn.
//!
//! The ring's own fd stands in the epoll set (a registered eventfd loses wake-ups when an eventfd caused the completion).
//! Completions are handed out in batches, one call per sink and run of completions.
//!
//! # Threads
//! The ring belongs to the home. An [`IoQueue`] may be held anywhere and pushes on the home only.
//!
//! # Invariants
//! 1. A sink with requests in flight is kept alive by the ring, so what it keeps alive for the kernel stays.
//! 2. A slot is reused only when its sink is gone and nothing of it is in flight.
#![allow(unsafe_code)] // submission entries name memory of the caller

use crate::home_cell::HomeCell;
use crate::reactor::{Driving, Reactor};
use crate::{AioContext, Error, ErrorKind, Result};
use io_uring::{IoUring, squeue};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

const SUBMISSIONS: u32 = 256;
const COMPLETIONS: u32 = 4096;
/// The bits of `user_data` that are the caller's.
const USER_BITS: u32 = 48;
const USER_MASK: u64 = (1 << USER_BITS) - 1;

/// A finished request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoCompletion {
    /// The number given to [`IoQueue::push`].
    pub user: u64,
    /// What the system call would have returned, with `-errno` for errors.
    pub result: i32,
}

/// Takes finished requests, on the home thread, with no lock held.
pub trait IoSink: Send + Sync {
    /// Some requests have finished, in the order of the kernel.
    fn complete(&self, completions: &[IoCompletion]);
}

/// An AioContext's access to the ring of its home.
pub struct IoQueue {
    aio: AioContext,
    sink: Weak<dyn IoSink>,
    in_flight: Arc<AtomicUsize>,
    /// The reactor (by address) whose ring knows the sink, and under which slot.
    place: HomeCell<Option<(usize, u16)>>,
}

impl IoQueue {
    pub(crate) fn new(aio: AioContext, sink: Arc<dyn IoSink>) -> Result<IoQueue> {
        if !is_supported() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "this kernel allows no io_uring",
            ));
        }
        let in_flight = Arc::new(AtomicUsize::new(0));
        Ok(IoQueue {
            aio,
            sink: Arc::downgrade(&sink),
            in_flight,
            place: HomeCell::new(None),
        })
    }

    /// Queues a request; it is submitted at the end of the turn, or at once when the submission queue is full. `user` (48
    /// bits) comes back with the completion.
    ///
    /// # Errors
    /// `WrongThread` off the home thread; `LimitExceeded` when the kernel takes no more; the kernel's, when it gives no ring.
    /// The request was not queued then.
    ///
    /// # Safety
    /// Whatever memory and fd the entry names stay valid until its completion was delivered.
    pub unsafe fn push(&self, user: u64, entry: squeue::Entry) -> Result<()> {
        let Some(sink) = self.sink.upgrade() else {
            return Err(Error::new(
                ErrorKind::Closed,
                "the sink of the requests is gone",
            ));
        };
        let reactor = self.aio.reactor()?;
        let driving = reactor.drive()?;
        reactor.with_ring(&driving, |ring| {
            let slot = self.slot(&reactor, &driving, ring)?;
            let entry = entry.user_data(u64::from(slot) << USER_BITS | user & USER_MASK);
            // SAFETY: the caller's promise.
            unsafe { ring.push(&entry) }?;
            ring.begin(slot, sink);
            Ok(())
        })
    }

    /// The requests pushed and not completed.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn slot(&self, reactor: &Arc<Reactor>, driving: &Driving<'_>, ring: &mut Ring) -> Result<u16> {
        let mut place = self.place.get(driving);
        let here = Arc::as_ptr(reactor).addr();
        match *place {
            Some((there, slot)) if there == here => Ok(slot),
            _ => {
                let slot = ring.add_slot(&self.sink, &self.in_flight)?;
                *place = Some((here, slot));
                Ok(slot)
            }
        }
    }
}

impl fmt::Debug for IoQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoQueue")
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

/// True where the kernel lets this process have a ring.
fn is_supported() -> bool {
    static SUPPORTED: OnceLock<bool> = OnceLock::new();
    *SUPPORTED.get_or_init(|| IoUring::new(2).is_ok())
}

struct Slot {
    sink: Weak<dyn IoSink>,
    /// Present while requests are in flight (invariant 1).
    alive: Option<Arc<dyn IoSink>>,
    in_flight: Arc<AtomicUsize>,
}

/// The ring and who uses it.
pub(crate) struct Ring {
    uring: IoUring,
    slots: Vec<Slot>,
    /// Completions taken from the kernel and not handed out yet: what they mean and their results.
    taken: VecDeque<(u64, i32)>,
    /// The kernel has not taken all submissions; try again soon.
    stuck: bool,
}

impl Ring {
    pub(crate) fn new() -> Result<Ring> {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(COMPLETIONS).setup_clamp();
        let plain = builder.clone();
        let uring = builder
            .setup_submit_all()
            .setup_coop_taskrun()
            .build(SUBMISSIONS);
        let uring = uring.or_else(|_| plain.build(SUBMISSIONS));
        let uring = uring.map_err(|error| Error::os("cannot create an io_uring", error))?;
        Ok(Ring {
            uring,
            slots: Vec::new(),
            taken: VecDeque::new(),
            stuck: false,
        })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.uring.as_raw_fd()
    }

    fn add_slot(&mut self, sink: &Weak<dyn IoSink>, in_flight: &Arc<AtomicUsize>) -> Result<u16> {
        let is_free = |slot: &Slot| slot.alive.is_none() && slot.sink.strong_count() == 0;
        let index = self
            .slots
            .iter()
            .position(is_free)
            .unwrap_or(self.slots.len());
        let number = u16::try_from(index)
            .map_err(|_| Error::new(ErrorKind::LimitExceeded, "too many users of one io_uring"))?;
        let slot = Slot {
            sink: Weak::clone(sink),
            alive: None,
            in_flight: Arc::clone(in_flight),
        };
        match self.slots.get_mut(index) {
            Some(free) => *free = slot,
            None => self.slots.push(slot),
        }
        Ok(number)
    }

    /// # Safety
    /// As for [`IoQueue::push`].
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

    fn begin(&mut self, slot: u16, sink: Arc<dyn IoSink>) {
        let slot = &mut self.slots[usize::from(slot)];
        if slot.in_flight.fetch_add(1, Ordering::Relaxed) == 0 {
            slot.alive = Some(sink);
        }
    }

    /// Gives the kernel what was pushed.
    pub(crate) fn submit(&mut self) {
        self.stuck = false;
        if self.uring.submission().is_empty() {
            return;
        }
        while let Err(error) = self.uring.submit() {
            if error.kind() != io::ErrorKind::Interrupted {
                // EBUSY or EAGAIN: completions must be taken, or memory found, first.
                self.stuck = true;
                return;
            }
        }
        self.stuck = !self.uring.submission().is_empty();
    }

    /// True when a blocking wait must be skipped: completions are there, or submissions are stuck.
    pub(crate) fn is_ready(&mut self) -> bool {
        self.stuck || !self.taken.is_empty() || !self.uring.completion().is_empty()
    }

    /// Takes the next completions that are for one sink, in the order of the kernel; they are put into `run`.
    pub(crate) fn next_run(&mut self, run: &mut Vec<IoCompletion>) -> Option<Arc<dyn IoSink>> {
        if self.taken.is_empty() {
            self.taken.extend(
                self.uring
                    .completion()
                    .map(|entry| (entry.user_data(), entry.result())),
            );
        }
        let number = slot_of(self.taken.front()?.0);
        let mut sink = None;
        while let Some(&(user_data, result)) = self.taken.front()
            && slot_of(user_data) == number
        {
            self.taken.pop_front();
            sink = self.slots.get_mut(number).and_then(Slot::end_one);
            run.push(IoCompletion {
                user: user_data & USER_MASK,
                result,
            });
        }
        sink
    }
}

fn slot_of(user_data: u64) -> usize {
    usize::try_from(user_data >> USER_BITS).unwrap_or(usize::MAX)
}

impl Slot {
    /// Counts one completion; the sink it is for.
    fn end_one(&mut self) -> Option<Arc<dyn IoSink>> {
        let sink = self.alive.clone();
        if self.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.alive = None;
        }
        sink
    }
}

#[cfg(test)]
mod tests {
    use super::{IoCompletion, IoSink};
    use crate::{AioContext, Wait};
    use io_uring::opcode;
    use std::sync::{Arc, Mutex};

    #[derive(Default)]
    struct Seen(Mutex<Vec<IoCompletion>>);

    impl IoSink for Seen {
        fn complete(&self, completions: &[IoCompletion]) {
            self.0.lock().unwrap().extend_from_slice(completions);
        }
    }

    #[test]
    fn more_requests_than_the_submission_queue_holds_all_complete() {
        let aio = AioContext::new().unwrap();
        let seen = Arc::new(Seen::default());
        let sink: Arc<dyn IoSink> = Arc::<Seen>::clone(&seen);
        let Ok(queue) = aio.register_io(sink) else {
            eprintln!("SKIP: this kernel allows no io_uring");
            return;
        };
        for user in 0..1000 {
            // SAFETY: a no-op names no memory.
            unsafe { queue.push(user, opcode::Nop::new().build()) }.unwrap();
        }
        while queue.in_flight() > 0 {
            assert!(aio.poll(Wait::Block).unwrap());
        }
        let mut users: Vec<_> = seen
            .0
            .lock()
            .unwrap()
            .iter()
            .map(|completion| completion.user)
            .collect();
        users.sort_unstable();
        assert_eq!(users, (0..1000).collect::<Vec<_>>());
        assert!(!aio.poll(Wait::NoBlock).unwrap());
    }

    #[test]
    fn a_sink_with_a_request_in_flight_outlives_its_owner() {
        let aio = AioContext::new().unwrap();
        let seen = Arc::new(Seen::default());
        let weak = Arc::downgrade(&seen);
        let sink: Arc<dyn IoSink> = seen;
        let Ok(queue) = aio.register_io(Arc::clone(&sink)) else {
            eprintln!("SKIP: this kernel allows no io_uring");
            return;
        };
        // SAFETY: a no-op names no memory.
        unsafe { queue.push(1, opcode::Nop::new().build()) }.unwrap();
        drop((queue, sink));
        assert!(weak.upgrade().is_some());
        assert!(aio.poll(Wait::Block).unwrap());
        assert!(weak.upgrade().is_none());
    }
}
