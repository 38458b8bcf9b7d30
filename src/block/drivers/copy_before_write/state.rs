//! What a `copy-before-write` node knows of its clusters. All queues share it, and the job that has made the node.
//!
//! # Invariants
//! 1. Who copies, changes or hides clusters has the lock on their range, exclusively. Who reads clusters as they were has it shared. So
//!    while one reads what is not copied, no copy of it ends, and no write to it begins.
//! 2. A cluster that need not be copied any more stays so.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cluster_set::ClusterSet;
use crate::block::range_lock::RangeLock;

/// See the head of this file.
#[derive(Debug)]
pub(in crate::block) struct CopyState {
    length: u64,
    cluster_size: u64,
    ranges: Arc<RangeLock>,
    clusters: Mutex<Clusters>,
}

#[derive(Debug)]
struct Clusters {
    /// Those that need not be copied any more.
    settled: ClusterSet,
    /// Those that were copied.
    copied: ClusterSet,
    /// Those that nobody may read as they were.
    hidden: ClusterSet,
    /// The negative errno of the copy that broke the old data.
    broken: Option<i32>,
    /// How many bytes are not settled, and how many were copied.
    remaining: u64,
    done: u64,
    /// Only what the node itself has is copied, and not what is in its backing files.
    skips_unallocated: bool,
}

/// Where the data of a cluster are as they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataPlace {
    Target,
    /// In the node itself, unless its clusters are copied before the reader has them locked.
    File,
    /// Nobody may read them any more.
    Nowhere,
}

impl Clusters {
    /// Where the first one is, and up to where that holds.
    fn place(&self, numbers: Range<u64>) -> (DataPlace, u64) {
        let hidden = self.hidden.find(numbers.clone(), true);
        if self.broken.is_some() || hidden == Some(numbers.start) {
            return (DataPlace::Nowhere, numbers.end);
        }
        let visible = numbers.start..hidden.unwrap_or(numbers.end);
        let is_copied = self.copied.find(visible.clone(), true) == Some(visible.start);
        let end = self.copied.find(visible.clone(), !is_copied);
        let place = if is_copied {
            DataPlace::Target
        } else {
            DataPlace::File
        };
        (place, end.unwrap_or(visible.end))
    }

    fn next_needed(&self, numbers: Range<u64>) -> Option<Range<u64>> {
        if self.broken.is_some() {
            return None;
        }
        let first = self.settled.find(numbers.clone(), false)?;
        let end = self.settled.find(first..numbers.end, true);
        Some(first..end.unwrap_or(numbers.end))
    }

    /// Returns how many bytes were not settled before, of a disk of `length` bytes.
    fn settle(&mut self, numbers: Range<u64>, length: u64, cluster_size: u64) -> u64 {
        let last = length.div_ceil(cluster_size).saturating_sub(1);
        let has_last = numbers.contains(&last) && self.settled.find(last..last + 1, true).is_none();
        let missing = if has_last {
            (last + 1) * cluster_size - length
        } else {
            0
        };
        let bytes = self.settled.insert(numbers) * cluster_size - missing;
        self.remaining -= bytes;
        bytes
    }
}

impl CopyState {
    /// All of `length` bytes is to be copied.
    pub(super) fn new(length: u64, cluster_size: u64) -> CopyState {
        let count = length.div_ceil(cluster_size);
        CopyState {
            length,
            cluster_size,
            ranges: Arc::default(),
            clusters: Mutex::new(Clusters {
                settled: ClusterSet::below(count),
                copied: ClusterSet::below(count),
                hidden: ClusterSet::below(count),
                broken: None,
                remaining: length,
                done: 0,
                skips_unallocated: false,
            }),
        }
    }

    pub(in crate::block) fn length(&self) -> u64 {
        self.length
    }

    pub(in crate::block) fn cluster_size(&self) -> u64 {
        self.cluster_size
    }

    pub(super) fn ranges(&self) -> &Arc<RangeLock> {
        &self.ranges
    }

    /// The clusters that `range` touches, as bytes.
    pub(super) fn around(&self, range: &Range<u64>) -> Range<u64> {
        self.bytes(self.numbers(range))
    }

    /// The first clusters of `range` that are still to be copied, as bytes. None if the old data is lost.
    pub(in crate::block) fn next_needed(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let needed = self.clusters().next_needed(self.numbers(range))?;
        Some(self.bytes(needed))
    }

    /// Clusters were copied.
    pub(super) fn set_copied(&self, range: &Range<u64>) {
        let numbers = self.numbers(range);
        let mut clusters = self.clusters();
        let bytes = clusters.settle(numbers.clone(), self.length, self.cluster_size);
        clusters.done += bytes;
        clusters.copied.insert(numbers);
    }

    /// Where the beginning of a range is as it was, and up to where that holds. The range is not empty.
    pub(super) fn place(&self, range: &Range<u64>) -> (DataPlace, u64) {
        let (place, end) = self.clusters().place(self.numbers(range));
        (place, end.saturating_mul(self.cluster_size).min(range.end))
    }

    /// Nobody reads these clusters as they were any more, so they need not be copied.
    pub(super) fn hide(&self, range: &Range<u64>) {
        let numbers = self.numbers(range);
        let mut clusters = self.clusters();
        clusters.settle(numbers.clone(), self.length, self.cluster_size);
        clusters.hidden.insert(numbers);
    }

    /// How many bytes are still to be copied.
    pub(in crate::block) fn remaining(&self) -> u64 {
        self.clusters().remaining
    }

    /// How many bytes were copied.
    pub(in crate::block) fn copied(&self) -> u64 {
        self.clusters().done
    }

    /// From now on only what the node itself has is copied. Nothing was copied yet.
    pub(in crate::block) fn copy_what_is_allocated(&self) {
        self.clusters().skips_unallocated = true;
    }

    pub(super) fn skips_unallocated(&self) -> bool {
        self.clusters().skips_unallocated
    }

    /// Whether the old data is lost.
    pub(super) fn is_lost(&self) -> bool {
        self.clusters().broken.is_some()
    }

    /// The whole clusters of `range`, as bytes.
    pub(super) fn inside(&self, range: &Range<u64>) -> Range<u64> {
        let start = range.start.next_multiple_of(self.cluster_size);
        let end = match range.end >= self.length {
            true => self.length,
            false => range.end / self.cluster_size * self.cluster_size,
        };
        start..end.max(start)
    }

    /// A copy has failed, and the old data is lost.
    pub(super) fn break_with(&self, result: i32) {
        self.clusters().broken.get_or_insert(result);
    }

    fn numbers(&self, range: &Range<u64>) -> Range<u64> {
        let end = range.end.min(self.length).div_ceil(self.cluster_size);
        match range.start < range.end.min(self.length) {
            true => range.start / self.cluster_size..end,
            false => end..end,
        }
    }

    fn bytes(&self, numbers: Range<u64>) -> Range<u64> {
        let end = numbers.end.saturating_mul(self.cluster_size);
        numbers.start * self.cluster_size..end.min(self.length)
    }

    /// The sets are consistent after every single operation on them.
    fn clusters(&self) -> MutexGuard<'_, Clusters> {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
