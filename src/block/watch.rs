//! What a node does with writes by itself, whatever its driver: `detect-zeroes`, and the write threshold.
//!
//! Used by [`Node`](super::Node) when a queue opens its way. A node that wants neither has no part in the way. Otherwise a layer looks
//! at each write: one that is all zeroes becomes a write of zeroes, and the first one beyond the threshold is reported.
//!
//! # Threads
//! Layers read the threshold, and any thread sets it. Whether there is a layer changes under a drain of the node.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::common::DetectZeroes;
use super::gate::Gate;
use super::request::{Finished, Op, Request};
use super::way::Way;
use super::way::below::Below;
use super::way::task::{Layer, Task, TaskWay};

/// Reports a write beyond the threshold: how many bytes it goes beyond, and the threshold.
type ExceededCallback = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// A node's write threshold.
#[derive(Default)]
pub(super) struct WriteThreshold {
    /// 0 if there is none.
    offset: AtomicU64,
    exceeded: Mutex<Option<ExceededCallback>>,
}

impl WriteThreshold {
    /// Reports the first write that goes beyond `offset`. 0 reports none.
    pub(super) fn set(&self, offset: u64, exceeded: ExceededCallback) {
        let before = self.exceeded().replace(exceeded);
        self.offset.store(offset, Ordering::Relaxed);
        drop(before);
    }

    pub(super) fn get(&self) -> u64 {
        self.offset.load(Ordering::Relaxed)
    }

    /// A write ends at `end`.
    fn check(&self, end: u64) {
        let offset = self.get();
        if offset == 0 || end <= offset {
            return;
        }
        // Of several writes at the same time one reports.
        let taken = self
            .offset
            .compare_exchange(offset, 0, Ordering::Relaxed, Ordering::Relaxed);
        let exceeded = self.exceeded().clone();
        if let (Ok(_), Some(exceeded)) = (taken, exceeded) {
            exceeded(end - offset, offset);
        }
    }

    /// The callback is replaced as a whole.
    fn exceeded(&self) -> MutexGuard<'_, Option<ExceededCallback>> {
        self.exceeded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for WriteThreshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriteThreshold({})", self.get())
    }
}

/// One queue's part of a node that looks at writes.
#[derive(Debug)]
struct WatchLayer {
    detect_zeroes: DetectZeroes,
    threshold: Arc<WriteThreshold>,
    below: Arc<Below>,
}

/// The way of a queue, with a look at its writes if the node wants that. `open` opens the way of the node's driver.
pub(super) fn open_way(
    detect_zeroes: DetectZeroes,
    threshold: &Arc<WriteThreshold>,
    gate: &Arc<Gate>,
    open: impl FnOnce(&Arc<Gate>) -> Way,
) -> Way {
    if detect_zeroes == DetectZeroes::Off && threshold.get() == 0 {
        return open(gate);
    }
    TaskWay::open(gate, |new| {
        Arc::new(WatchLayer {
            detect_zeroes,
            threshold: Arc::clone(threshold),
            below: new.open(open),
        })
    })
}

impl Layer for WatchLayer {
    fn run(self: Arc<Self>, request: Box<Request>) -> Task {
        Box::pin(async move { self.carry_out(request).await })
    }

    fn takes_parts(&self) -> bool {
        self.below.takes_parts()
    }
}

impl WatchLayer {
    async fn carry_out(&self, request: Box<Request>) -> Finished {
        if matches!(request.op, Op::Write | Op::WriteZeroes { .. }) {
            self.threshold
                .check(request.offset.saturating_add(request.length));
        }
        let is_detected = self.detect_zeroes != DetectZeroes::Off
            && request.op == Op::Write
            && request.is_all_zeroes();
        if !is_detected {
            return self.below.submit(request).await;
        }
        let unmap = self.detect_zeroes == DetectZeroes::Unmap;
        let mut zeroes = self
            .below
            .request(Op::WriteZeroes { unmap }, request.offset);
        zeroes.set_length(request.length);
        let zeroed = self.below.submit(zeroes).await;
        self.below.recycle(zeroed.request);
        match zeroed.result.saturating_neg() {
            libc::ENOTSUP => self.below.submit(request).await,
            _ => Finished {
                request,
                result: zeroed.result,
            },
        }
    }
}

#[cfg(test)]
mod tests;
