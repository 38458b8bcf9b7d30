//! What a queue has done, countable from any thread.
//!
//! A queue counts in plain numbers while it works and publishes them before it shows the guest something, so that counting
//! costs a request no atomic operation, and a reader who learns of a completion from the guest finds it counted.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::block::Op;

/// What a queue has done since its disk was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Finished reads.
    pub reads: u64,
    /// Finished writes.
    pub writes: u64,
    /// Finished flushes.
    pub flushes: u64,
    /// Finished discards and write-zeroes.
    pub discards: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Requests that did not end well.
    pub errors: u64,
    /// Kicks of the guest that were seen.
    pub kicks: u64,
    /// Calls made to the guest.
    pub calls: u64,
}

impl QueueStats {
    const FIELDS: usize = 9;
    /// How many of them are the disk's; the last ones are counted by the queue's worker.
    const OF_DISK: usize = 7;

    /// Counts a finished request.
    pub(super) fn finish(&mut self, op: Op, length: u64, ok: bool) {
        if !ok {
            self.errors += 1;
            return;
        }
        match op {
            Op::Read => {
                self.reads += 1;
                self.bytes_read += length;
            }
            Op::Write => {
                self.writes += 1;
                self.bytes_written += length;
            }
            Op::Flush => self.flushes += 1,
            Op::BlockStatus | Op::Populate => {}
            Op::Discard | Op::WriteZeroes { .. } => self.discards += 1,
        }
    }

    /// The sum of both.
    pub(super) fn plus(self, other: QueueStats) -> QueueStats {
        let mut sum = self.to_array();
        for (value, more) in sum.iter_mut().zip(other.to_array()) {
            *value += more;
        }
        QueueStats::from_array(sum)
    }

    fn to_array(self) -> [u64; Self::FIELDS] {
        [
            self.reads,
            self.writes,
            self.flushes,
            self.discards,
            self.bytes_read,
            self.bytes_written,
            self.errors,
            self.kicks,
            self.calls,
        ]
    }

    fn from_array(a: [u64; Self::FIELDS]) -> Self {
        QueueStats {
            reads: a[0],
            writes: a[1],
            flushes: a[2],
            discards: a[3],
            bytes_read: a[4],
            bytes_written: a[5],
            errors: a[6],
            kicks: a[7],
            calls: a[8],
        }
    }
}

/// The numbers as other threads see them, on a cache line of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct PublishedStats([AtomicU64; QueueStats::OF_DISK]);

impl PublishedStats {
    /// Shows the queue's totals, without kicks and calls; only the queue calls this.
    pub(super) fn show(&self, stats: &QueueStats) {
        for (cell, value) in self.0.iter().zip(stats.to_array()) {
            cell.store(value, Ordering::Relaxed);
        }
    }

    /// The numbers of the last batch.
    pub(super) fn read(&self) -> QueueStats {
        let mut array = QueueStats::default().to_array();
        for (value, cell) in array.iter_mut().zip(&self.0) {
            *value = cell.load(Ordering::Relaxed);
        }
        QueueStats::from_array(array)
    }
}

/// The totals of a started queue, and where it shows them.
#[derive(Debug)]
pub(super) struct Totals {
    pub(super) now: QueueStats,
    shown: Arc<PublishedStats>,
}

impl Totals {
    /// Goes on counting where an earlier start of the queue has stopped.
    pub(super) fn new(shown: Arc<PublishedStats>) -> Totals {
        Totals {
            now: shown.read(),
            shown,
        }
    }

    pub(super) fn show(&self) {
        self.shown.show(&self.now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_numbers_read_back() {
        let mut stats = QueueStats::default();
        stats.finish(Op::Read, 4096, true);
        stats.finish(Op::Write, 512, true);
        stats.finish(Op::Flush, 0, false);
        let published = PublishedStats::default();
        published.show(&stats);
        assert_eq!(published.read(), stats);
        assert_eq!(
            (
                stats.reads,
                stats.bytes_written,
                stats.errors,
                stats.flushes
            ),
            (1, 512, 1, 0)
        );
    }
}
