//! The way back to the guest: chains that a model has finished, and those that it finishes later.
//!
//! Used by device models, which get it with each chain, and by [`super::serving`], which shows the guest what is finished.
//!
//! # Invariants
//! 1. The status places of kept chains lie in the memory snapshot of `virtqueue`: [`Answers::keep`] takes them from a
//!    chain of that snapshot only.
#![allow(unsafe_code)] // writes status bytes after the chain's borrow has ended

use crate::virtio::memory::BytePlace;
use crate::virtio::queue::{Chain, Virtqueue};

/// The length of a status.
const STATUS_LEN: u32 = 1;

/// A kept chain. As good as its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(usize);

/// A queue's way back to the guest. Nothing is visible to the guest before the batch ends.
#[derive(Debug)]
pub struct Answers {
    pub(super) virtqueue: Virtqueue,
    slots: Vec<AnswerSlot>,
    /// The first free slot, if there is one; the others are linked.
    free: usize,
    /// How many slots hold a chain.
    kept: usize,
    /// How many of them are parked.
    parked: usize,
}

#[derive(Clone, Copy, Debug)]
enum AnswerSlot {
    Kept(KeptChain),
    /// Free; the next free one.
    Free(usize),
}

/// What is left of a chain between batches.
#[derive(Clone, Copy, Debug)]
struct KeptChain {
    head: u16,
    status: Option<BytePlace>,
}

impl From<Tag> for u64 {
    fn from(tag: Tag) -> u64 {
        tag.0 as u64
    }
}

impl From<u64> for Tag {
    fn from(number: u64) -> Tag {
        Tag(usize::try_from(number).unwrap_or(usize::MAX))
    }
}

impl Answers {
    pub(super) fn new(virtqueue: Virtqueue) -> Answers {
        Answers {
            virtqueue,
            slots: Vec::new(),
            free: 0,
            kept: 0,
            parked: 0,
        }
    }

    /// Gives a chain back to the guest; the device has written `written` bytes.
    pub fn finish(&mut self, chain: &Chain<'_>, written: u32) {
        self.virtqueue.push_used(chain.head(), written);
    }

    /// As [`finish`](Answers::finish), and writes `status` into the last writable byte. The device has written `data` bytes
    /// besides. The used length is the sum of both, as section 2.7.8 of the specification defines it.
    #[inline]
    pub fn finish_with_status(&mut self, chain: &Chain<'_>, data: u32, status: u8) {
        if let Some(last) = chain.writable().last() {
            last.after(last.len().saturating_sub(1)).write(&[status]);
        }
        self.finish(chain, data.saturating_add(STATUS_LEN));
    }

    /// The tag that the next [`keep`](Answers::keep) gives. So a request can carry it before it is known whether the
    /// chain must be kept.
    #[inline]
    pub fn next_tag(&self) -> Tag {
        Tag(self.free)
    }

    /// Keeps a chain to be completed later, by its tag. The queue does not stop before.
    ///
    /// # Panics
    /// The chain is another queue's.
    #[inline]
    pub fn keep(&mut self, chain: &Chain<'_>) -> Tag {
        assert!(
            chain.memory().is_same(self.virtqueue.memory()),
            "a chain is answered by its own queue"
        );
        let kept = AnswerSlot::Kept(KeptChain {
            head: chain.head(),
            status: chain.writable().last().and_then(|last| last.last_byte()),
        });
        let number = self.free;
        self.kept += 1;
        match self.slots.get_mut(number) {
            Some(slot) => {
                if let AnswerSlot::Free(next) = *slot {
                    self.free = next;
                }
                *slot = kept;
            }
            None => {
                self.slots.push(kept);
                self.free = self.slots.len();
            }
        }
        Tag(number)
    }

    /// Gives a kept chain back to the guest; the device has written `written` bytes. A chain that is not kept any more is
    /// left alone.
    pub fn complete(&mut self, tag: Tag, written: u32) {
        if let Some(chain) = self.take(tag) {
            self.virtqueue.push_used(chain.head, written);
        }
    }

    /// As [`complete`](Answers::complete), with the status as [`finish_with_status`](Answers::finish_with_status) writes it.
    pub fn complete_with_status(&mut self, tag: Tag, data: u32, status: u8) {
        let Some(chain) = self.take(tag) else {
            return;
        };
        if let Some(place) = chain.status {
            // SAFETY: the place is in this snapshot (invariant 1).
            unsafe { self.virtqueue.memory().write_byte(place, status) };
        }
        self.virtqueue
            .push_used(chain.head, data.saturating_add(STATUS_LEN));
    }

    /// Says how many of the kept chains are parked. Nothing is done for these, so the queue rests in spite of them. They wait until
    /// the device goes on after it was held, or until the queue stops.
    #[inline]
    pub fn set_parked(&mut self, count: usize) {
        self.parked = count;
    }

    #[cfg(test)]
    pub(super) fn parked(&self) -> usize {
        self.parked
    }

    /// Whether something is done for kept chains.
    pub(super) fn has_busy(&self) -> bool {
        self.kept > self.parked
    }

    /// Whether chains are kept.
    pub(super) fn has_kept(&self) -> bool {
        self.kept > 0
    }

    fn take(&mut self, tag: Tag) -> Option<KeptChain> {
        let slot = self.slots.get_mut(tag.0)?;
        let AnswerSlot::Kept(chain) = *slot else {
            return None;
        };
        *slot = AnswerSlot::Free(self.free);
        self.free = tag.0;
        self.kept -= 1;
        Some(chain)
    }
}
