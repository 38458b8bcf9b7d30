//! The words of a bitmap: many, zero at first, changed by several threads at the same time.
//!
//! Used by [`BitTree`](super::tree::BitTree). The memory comes zeroed from the allocator. For a large bitmap it is the kernel's, which
//! gives each page when it is first written; so a bitmap of a large disk that is seldom written is small.
#![allow(unsafe_code)] // zeroed memory whose allocation may fail

use std::alloc::{Layout, alloc_zeroed};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(test)]
use super::model;

/// A word of a bitmap.
#[derive(Debug, Default)]
#[repr(transparent)]
pub(super) struct Word(AtomicU64);

impl Word {
    /// What is in the word. Whoever set these bits did so after what it did before.
    pub(super) fn get(&self) -> u64 {
        #[cfg(test)]
        model::step();
        self.0.load(Ordering::Acquire)
    }

    /// Sets bits. Returns the word before.
    pub(super) fn set(&self, bits: u64) -> u64 {
        #[cfg(test)]
        model::step();
        self.0.fetch_or(bits, Ordering::AcqRel)
    }

    /// Clears bits. Returns the word before.
    pub(super) fn clear(&self, bits: u64) -> u64 {
        #[cfg(test)]
        model::step();
        self.0.fetch_and(!bits, Ordering::AcqRel)
    }
}

/// So many words, all zero. `None` if there is no memory.
pub(super) fn zeroed(len: usize) -> Option<Box<[Word]>> {
    let layout = Layout::array::<Word>(len)
        .ok()
        .filter(|layout| layout.size() > 0)?;
    // SAFETY: the layout is not empty.
    let start = unsafe { alloc_zeroed(layout) };
    if start.is_null() {
        return None;
    }
    let words = ptr::slice_from_raw_parts_mut(start.cast::<Word>(), len);
    // SAFETY: the allocator gave memory of the slice's layout, and a zero is a good Word.
    Some(unsafe { Box::from_raw(words) })
}
