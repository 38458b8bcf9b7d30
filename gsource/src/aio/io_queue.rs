//! Requests of AioContexts to the io_uring of their home.
//!
//! Completions are handed out in batches, one call per sink and run of completions.
//!
//! # Threads
//! The ring belongs to the home. An [`IoQueue`] may be held anywhere; its batches are the home's.
#![allow(unsafe_code)] // submission entries name memory of the caller

use crate::poller::io_sink::IoSink;
use crate::poller::ring::HomeRing;
use crate::sync::{AtomicUsize, Ordering};
use crate::{AioContext, Error, ErrorKind, Result};
use io_uring::{IoUring, squeue};
use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

/// An AioContext's access to the ring of its home.
pub struct IoQueue {
    aio: AioContext,
    sink: Weak<dyn IoSink>,
    in_flight: Arc<AtomicUsize>,
    /// The slot of the sink in the ring that was used last. The ring checks it.
    slot: AtomicUsize,
}

impl IoQueue {
    pub(crate) fn new(aio: AioContext, sink: Arc<dyn IoSink>) -> Result<IoQueue> {
        if !IoQueue::is_supported() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "this kernel allows no io_uring",
            ));
        }
        let in_flight = Arc::new(AtomicUsize::new(0));
        aio.core().note_io_queue(&in_flight);
        Ok(IoQueue {
            aio,
            sink: Arc::downgrade(&sink),
            in_flight,
            slot: AtomicUsize::new(0),
        })
    }

    /// True where the kernel lets this process have a ring.
    pub fn is_supported() -> bool {
        static SUPPORTED: OnceLock<bool> = OnceLock::new();
        *SUPPORTED.get_or_init(|| IoUring::new(2).is_ok())
    }

    /// Calls `work` with the right to queue requests, taken once for all of them.
    ///
    /// # Errors
    /// `WrongThread` off the home thread; `Closed` when the sink is gone; the kernel's, when it gives no ring. `work` was not
    /// called then.
    pub fn batch<T>(&self, work: impl FnOnce(&mut IoBatch<'_>) -> T) -> Result<T> {
        let Some(sink) = self.sink.upgrade() else {
            return Err(Error::new(
                ErrorKind::Closed,
                "the sink of the requests is gone",
            ));
        };
        let reactor = self.aio.reactor()?;
        let driving = reactor.drive()?;
        driving.with_ring(|ring| {
            let hint = self.slot.load(Ordering::Relaxed);
            let slot = ring.slot_of(hint, &self.sink, &self.in_flight)?;
            self.slot.store(usize::from(slot), Ordering::Relaxed);
            let sink = &sink;
            Ok(work(&mut IoBatch { ring, slot, sink }))
        })
    }

    /// The requests pushed and not completed.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// The right to queue requests, for the time of [`IoQueue::batch`]. The ring is borrowed meanwhile, so nothing that
/// uses the AioContext may be called.
pub struct IoBatch<'a> {
    ring: &'a mut HomeRing,
    slot: u16,
    sink: &'a Arc<dyn IoSink>,
}

impl IoBatch<'_> {
    /// Queues a request; it is submitted at the end of the turn, or at once when the submission queue is full. `user` (48
    /// bits) comes back with the completion.
    ///
    /// # Errors
    /// `LimitExceeded` when the kernel takes no more. The request was not queued then.
    ///
    /// # Safety
    /// Whatever memory and fd the entry names stay valid until its completion was delivered.
    pub unsafe fn push(&mut self, user: u64, entry: squeue::Entry) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.ring.request(self.slot, user, entry) }?;
        self.ring.begin(self.slot, self.sink);
        Ok(())
    }
}

impl fmt::Debug for IoBatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoBatch")
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for IoQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoQueue")
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::IoBatch;
    use crate::{AioContext, IoCompletion, IoSink, Wait};
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
            crate::skip::skip("this kernel allows no io_uring");
            return;
        };
        let push_all = |batch: &mut IoBatch<'_>| {
            for user in 0..1000 {
                // SAFETY: a no-op names no memory.
                unsafe { batch.push(user, opcode::Nop::new().build()) }.unwrap();
            }
        };
        queue.batch(push_all).unwrap();
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
            crate::skip::skip("this kernel allows no io_uring");
            return;
        };
        // SAFETY: a no-op names no memory.
        let push = |batch: &mut IoBatch<'_>| unsafe { batch.push(1, opcode::Nop::new().build()) };
        queue.batch(push).unwrap().unwrap();
        drop((queue, sink));
        assert!(weak.upgrade().is_some());
        assert!(aio.poll(Wait::Block).unwrap());
        assert!(weak.upgrade().is_none());
    }
}
