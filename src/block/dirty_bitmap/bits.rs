//! Which ranges of a disk are dirty, by granules.
//!
//! Used by [`DirtyBitmap`](super::DirtyBitmap), which belongs to a node, and by jobs for what they have still to do. Positions are bytes. A
//! granule is dirty or clean as a whole.
//!
//! A copier takes a run with [`DirtyBits::take_run`], which makes it clean, and reads it after that. A writer writes first and sets the bits
//! then. So a write is either in what the copier reads or makes the range dirty again. (If the bits were set first, the copier could take
//! them, read the old data, and never come back.)
//!
//! # Threads
//! Any thread sets, clears, takes and searches, without a lock. A lock is taken when the length changes, and by whoever waits in
//! [`DirtyBits::dirtied`].
//!
//! # Length
//! Bits are there in segments. When the length grows beyond them, a segment is added, as long as all before, and none ever goes. Bits
//! behind the end are hidden. What is cut off and then comes back is dirty, because its data is gone.
#![forbid(unsafe_code)]

use std::mem;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use super::tree::BitTree;
use crate::{Error, ErrorKind, Result};

/// The granularities that can be.
const GRANULARITIES: Range<u64> = 512..(1 << 31) + 1;

/// The most bits: they take 1 GiB.
const BITS_MAX: u64 = 1 << 33;

/// The least bits of the first segment.
const SEGMENT_MIN: u64 = 1 << 12;

/// Each is as long as all before.
const SEGMENTS_MAX: usize = 24;

/// The dirty ranges of a disk; see the head of this file.
#[derive(Debug)]
pub struct DirtyBits {
    granularity: u64,
    length: AtomicU64,
    segments: Box<[OnceLock<Segment>]>,
    /// How many bits are set. It may lag behind what is being set and cleared.
    count: AtomicI64,
    /// Something dirty is not in the bits, because there was no memory.
    has_lost: AtomicBool,
    /// Held while the length changes. The longest length so far.
    longest: Mutex<u64>,
    /// There are wakers.
    is_awaited: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

/// Bits from `first` on.
#[derive(Debug)]
struct Segment {
    first: u64,
    tree: BitTree,
}

impl Segment {
    fn end(&self) -> u64 {
        self.first + self.tree.len()
    }

    /// The part of a range that is here, counted from the first bit of the segment.
    fn part(&self, range: &Range<u64>) -> Range<u64> {
        let part = |at: u64| at.clamp(self.first, self.end()) - self.first;
        part(range.start)..part(range.end)
    }
}

impl DirtyBits {
    /// A disk of `length` bytes, all clean.
    ///
    /// # Errors
    /// `InvalidArgument` for a granularity that is not a power of two from 512 to 2 GiB; `LimitExceeded` if there are too many granules.
    pub fn new(length: u64, granularity: u64) -> Result<DirtyBits> {
        if !granularity.is_power_of_two() || !GRANULARITIES.contains(&granularity) {
            let message = "Granularity must be power of 2 and at least 512";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let bits = DirtyBits {
            granularity,
            length: AtomicU64::new(length),
            segments: (0..SEGMENTS_MAX).map(|_| OnceLock::new()).collect(),
            count: AtomicI64::new(0),
            has_lost: AtomicBool::new(false),
            longest: Mutex::new(length),
            is_awaited: AtomicBool::new(false),
            wakers: Mutex::default(),
        };
        if !bits.reserve(length.div_ceil(granularity)) {
            let message = format!("{length} bytes have too many granules of {granularity} bytes");
            return Err(Error::new(ErrorKind::LimitExceeded, message));
        }
        Ok(bits)
    }

    /// The length of a granule.
    pub fn granularity(&self) -> u64 {
        self.granularity
    }

    /// The disk's length.
    pub fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }

    /// The disk has another length. What is new is clean, unless it was cut off before.
    pub fn resize(&self, length: u64) {
        let mut longest = lock(&self.longest);
        let before = self.length();
        if length > before {
            let reserved = self.reserve_locked(length.div_ceil(self.granularity));
            if *longest > before {
                let again = length.min(*longest).div_ceil(self.granularity);
                self.set_bits(before / self.granularity..again);
            }
            self.has_lost.fetch_or(!reserved, Ordering::Relaxed);
        }
        self.length.store(length, Ordering::Release);
        if length < before {
            let first = length.div_ceil(self.granularity);
            self.clear_bits(first..self.capacity());
        }
        *longest = length.max(*longest);
        drop(longest);
    }

    /// Makes granules dirty that have a byte of `range`.
    pub fn set(&self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let bits = range.start / self.granularity..range.end.div_ceil(self.granularity);
        if bits.end > self.capacity() && !self.reserve(bits.end) {
            self.has_lost.store(true, Ordering::Relaxed);
        }
        self.set_bits(bits);
    }

    /// Makes granules clean that are in `range` as a whole. The end of the disk ends its last granule.
    pub fn clear(&self, range: Range<u64>) {
        let end = match range.end >= self.length() {
            true => range.end.div_ceil(self.granularity),
            false => range.end / self.granularity,
        };
        self.clear_bits(range.start.div_ceil(self.granularity)..end);
    }

    /// Makes everything clean, also if something was lost.
    pub fn clear_all(&self) {
        self.clear_bits(0..self.capacity());
        self.has_lost.store(false, Ordering::Relaxed);
    }

    /// How many bytes are in dirty granules. The last granule counts as a whole.
    pub fn count(&self) -> u64 {
        let hidden = self.count_bits(self.end_bit()..self.capacity());
        model_step();
        let all = u64::try_from(self.count.load(Ordering::Acquire)).unwrap_or(0);
        all.saturating_sub(hidden).saturating_mul(self.granularity)
    }

    /// Whether something dirty is missing, because the disk grew beyond what there is memory for.
    pub fn has_lost(&self) -> bool {
        self.has_lost.load(Ordering::Relaxed)
    }

    /// The first dirty run that begins in `range` or reaches into it: the part in `range`.
    pub fn next_dirty(&self, range: Range<u64>) -> Option<Range<u64>> {
        let end = range.end.min(self.length());
        let bits = range.start / self.granularity..end.div_ceil(self.granularity);
        let run = self.next_run(bits)?;
        let start = (run.start * self.granularity).max(range.start);
        Some(start..(run.end * self.granularity).min(end)).filter(|run| !run.is_empty())
    }

    /// All dirty runs. Changes meanwhile may be among them or not.
    pub fn runs(&self) -> impl Iterator<Item = Range<u64>> {
        let next = |from: u64| self.next_dirty(from..u64::MAX);
        std::iter::successors(next(0), move |last| next(last.end))
    }

    /// Makes the first dirty run at or behind `from` clean, at most `most` bytes of it and at least a granule, and returns it. `None` if
    /// there is nothing dirty from there on.
    ///
    /// What is read after that is not older than what was set before.
    pub fn take_run(&self, from: u64, most: u64) -> Option<Range<u64>> {
        let first = from / self.granularity;
        let mut run = self.next_run(first..self.end_bit())?;
        let most = (most / self.granularity).max(1);
        run.end = run.end.min(run.start.saturating_add(most));
        self.clear_bits(run.clone());
        let end = (run.end * self.granularity).min(self.length());
        // A disk that became shorter meanwhile has nothing there.
        Some(run.start * self.granularity..end).filter(|run| !run.is_empty())
    }

    /// Makes dirty what is dirty in `other`.
    pub fn merge(&self, other: &DirtyBits) {
        other.runs().for_each(|run| self.set(run));
        self.has_lost.fetch_or(other.has_lost(), Ordering::Relaxed);
    }

    /// Takes everything that is dirty.
    ///
    /// # Errors
    /// `LimitExceeded` if there is no memory. Nothing was taken.
    pub fn take_all(&self) -> Result<DirtyBits> {
        let taken = DirtyBits::new(self.length(), self.granularity)?;
        while let Some(run) = self.take_run(0, u64::MAX) {
            taken.set(run);
        }
        let has_lost = self.has_lost.swap(false, Ordering::Relaxed);
        taken.has_lost.store(has_lost, Ordering::Relaxed);
        Ok(taken)
    }

    /// The same bits once more.
    ///
    /// # Errors
    /// `LimitExceeded` if there is no memory.
    pub fn copy(&self) -> Result<DirtyBits> {
        let copy = DirtyBits::new(self.length(), self.granularity)?;
        copy.merge(self);
        Ok(copy)
    }

    /// Waits until something is dirty.
    pub fn dirtied(&self) -> Dirtied<'_> {
        Dirtied(self)
    }

    /// Where the bits of the disk end.
    fn end_bit(&self) -> u64 {
        self.length().div_ceil(self.granularity)
    }

    fn next_run(&self, bits: Range<u64>) -> Option<Range<u64>> {
        let mut parts = self.parts(bits.clone());
        let start = parts.find_map(|(tree, first, part)| {
            let found = tree.next_set(part.start);
            Some(first + found.filter(|&at| at < part.end)?)
        })?;
        let mut end = start;
        for (tree, first, part) in self.parts(start..bits.end) {
            let clear = tree.next_clear(part.clone());
            end = first + clear;
            if clear < part.end {
                break;
            }
        }
        Some(start..end)
    }

    fn set_bits(&self, bits: Range<u64>) {
        let parts = self.parts(bits);
        let new: u64 = parts.map(|(tree, _, part)| tree.set(part)).sum();
        if new > 0 {
            self.add(new.cast_signed());
            self.wake();
        }
    }

    fn clear_bits(&self, bits: Range<u64>) {
        let parts = self.parts(bits);
        let gone: u64 = parts.map(|(tree, _, part)| tree.clear(part)).sum();
        if gone > 0 {
            self.add(-gone.cast_signed());
        }
    }

    fn count_bits(&self, bits: Range<u64>) -> u64 {
        let parts = self.parts(bits);
        parts.map(|(tree, _, part)| tree.count(part)).sum()
    }

    fn add(&self, count: i64) {
        model_step();
        self.count.fetch_add(count, Ordering::AcqRel);
    }

    /// The trees that have bits of a range, what their first bits are, and their parts of it.
    fn parts(&self, bits: Range<u64>) -> impl Iterator<Item = (&BitTree, u64, Range<u64>)> {
        self.there().filter_map(move |segment| {
            let part = segment.part(&bits);
            (!part.is_empty()).then_some((&segment.tree, segment.first, part))
        })
    }

    fn there(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().map_while(OnceLock::get)
    }

    /// How many bits there are.
    fn capacity(&self) -> u64 {
        self.there().last().map_or(0, Segment::end)
    }

    /// Makes sure that there are so many bits. False if they are too many, or there is no memory.
    fn reserve(&self, bits: u64) -> bool {
        bits <= self.capacity() || {
            let longest = lock(&self.longest);
            let reserved = self.reserve_locked(bits);
            drop(longest);
            reserved
        }
    }

    /// `longest` is locked.
    fn reserve_locked(&self, bits: u64) -> bool {
        let first = self.capacity();
        if bits <= first && first > 0 {
            return true;
        }
        if bits > BITS_MAX {
            return false;
        }
        let len = (bits - first).max(first).max(SEGMENT_MIN);
        let tree = BitTree::new(len.min(BITS_MAX - first));
        let free = self.segments.iter().find(|slot| slot.get().is_none());
        free.zip(tree)
            .is_some_and(|(slot, tree)| slot.set(Segment { first, tree }).is_ok())
    }

    /// Something is dirty that was not.
    fn wake(&self) {
        // Whoever sets `is_awaited` before this sees it here; whoever sets it later sees the bits.
        fence(Ordering::SeqCst);
        model_step();
        if self.is_awaited.load(Ordering::Relaxed) {
            self.is_awaited.store(false, Ordering::Relaxed);
            let wakers = mem::take(&mut *lock(&self.wakers));
            wakers.into_iter().for_each(Waker::wake);
        }
    }
}

/// Becomes ready when something is dirty; see [`DirtyBits::dirtied`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Dirtied<'a>(&'a DirtyBits);

impl Future for Dirtied<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let bits = self.0;
        if bits.next_dirty(0..u64::MAX).is_some() {
            return Poll::Ready(());
        }
        let mut wakers = lock(&bits.wakers);
        if !wakers.iter().any(|known| known.will_wake(context.waker())) {
            wakers.push(context.waker().clone());
        }
        drop(wakers);
        model_step();
        bits.is_awaited.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        match bits.next_dirty(0..u64::MAX) {
            Some(_) => Poll::Ready(()),
            None => Poll::Pending,
        }
    }
}

/// What is behind it is consistent after every single operation.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A step of the model in tests.
fn model_step() {
    #[cfg(test)]
    super::model::step();
}

#[cfg(test)]
mod tests;
