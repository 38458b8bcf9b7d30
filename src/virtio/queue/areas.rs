//! The three areas of a split ring, translated once and then accessed through raw pointers.
//!
//! Used by [`super::Virtqueue`]. Everything here is little-endian in memory and native in arguments and results.
//!
//! # Invariants
//! 1. Each pointer is aligned for its element and valid for the whole area of `size` entries; [`Areas::new`] checked
//!    it against the guest's memory, and the areas keep that snapshot.
//! 2. Indices are masked or compared with `size` before they are used.
//! 3. The guest writes these areas concurrently: access is atomic, or volatile where the guest must not write.
#![allow(unsafe_code)] // the rings are raw memory shared with the guest

use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use super::RingDescriptor;
use crate::virtio::memory::GuestMemory;
use crate::{Error, ErrorKind, Result};

const AVAIL_RING: usize = 2;
const USED_RING: usize = 1;

/// Pointers to descriptor table, available ring and used ring.
#[derive(Debug)]
pub(super) struct Areas {
    descriptors: *const [u64; 2],
    avail: *mut u16,
    used: *mut u32,
    size: u16,
    /// Keeps the mappings that the pointers lead to.
    memory: GuestMemory,
}

// SAFETY: the pointers lead to shared guest memory that is valid on every thread (invariant 1), and the rest is plain.
unsafe impl Send for Areas {}

impl Areas {
    /// Translates the areas of a ring of `size` entries (checked by the caller to be a power of two).
    pub(super) fn new(
        memory: &GuestMemory,
        size: u16,
        [descriptors, avail, used]: [u64; 3],
    ) -> Result<Areas> {
        let entries = usize::from(size);
        let descriptors = area(memory, descriptors, 16 * entries, 16, "descriptor table")?;
        let avail = area(memory, avail, 6 + 2 * entries, 2, "available ring")?;
        let used = area(memory, used, 6 + 8 * entries, 4, "used ring")?;
        Ok(Areas {
            descriptors: descriptors.cast_const().cast(),
            avail: avail.cast(),
            used: used.cast(),
            size,
            memory: memory.clone(),
        })
    }

    /// The snapshot that the areas lie in.
    pub(super) fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Copies the descriptor at `index`, once.
    pub(super) fn descriptor(&self, index: u16) -> Option<RingDescriptor> {
        if index >= self.size {
            return None;
        }
        let at = self.descriptors.wrapping_add(usize::from(index));
        // SAFETY: the index is below the size (invariants 1 and 2).
        let words = unsafe { at.read_volatile() };
        Some(RingDescriptor::from_words(words))
    }

    fn avail_word(&self, index: usize) -> &AtomicU16 {
        // SAFETY: callers stay within the area of 3 + size words (invariant 1).
        unsafe { AtomicU16::from_ptr(self.avail.wrapping_add(index)) }
    }

    fn used_word(&self, index: usize) -> &AtomicU16 {
        let words = self.used.cast::<u16>();
        // SAFETY: callers stay within the area of 3 + 4 * size words (invariant 1).
        unsafe { AtomicU16::from_ptr(words.wrapping_add(index)) }
    }

    /// How far the guest got; what it put before that index is visible.
    pub(super) fn avail_index(&self) -> u16 {
        u16::from_le(self.avail_word(1).load(Ordering::Acquire))
    }

    /// The head that the guest made available at `index`.
    pub(super) fn avail_head(&self, index: u16) -> u16 {
        let word = self.avail_word(AVAIL_RING + self.slot(index));
        u16::from_le(word.load(Ordering::Relaxed))
    }

    /// Whether the guest asks for no interrupts (without EVENT_IDX).
    pub(super) fn interrupts_unwanted(&self) -> bool {
        u16::from_le(self.avail_word(0).load(Ordering::Relaxed)) & 1 != 0
    }

    /// The used index after which the guest wants an interrupt (EVENT_IDX).
    pub(super) fn used_event(&self) -> u16 {
        let word = self.avail_word(AVAIL_RING + usize::from(self.size));
        u16::from_le(word.load(Ordering::Relaxed))
    }

    /// Tells the guest not to kick (without EVENT_IDX).
    pub(super) fn set_kicks_unwanted(&self, unwanted: bool) {
        self.used_word(0)
            .store(u16::from(unwanted).to_le(), Ordering::Relaxed);
    }

    /// Tells the guest after which available index to kick (EVENT_IDX).
    pub(super) fn set_avail_event(&self, index: u16) {
        self.used_word(2 + 4 * usize::from(self.size))
            .store(index.to_le(), Ordering::Relaxed);
    }

    /// The used index as it stands in memory.
    pub(super) fn used_index(&self) -> u16 {
        u16::from_le(self.used_word(1).load(Ordering::Relaxed))
    }

    /// Writes one element; the guest does not look at it before the index is published.
    pub(super) fn write_used(&self, index: u16, head: u16, len: u32) {
        let at = self.used.wrapping_add(USED_RING + 2 * self.slot(index));
        let element = [u32::from(head), len].map(u32::to_le);
        for (offset, word) in element.into_iter().enumerate() {
            // SAFETY: the slot is masked (invariants 1 and 2).
            let word_at = unsafe { AtomicU32::from_ptr(at.wrapping_add(offset)) };
            word_at.store(word, Ordering::Relaxed);
        }
    }

    /// Shows the guest all elements before `index`.
    pub(super) fn publish_used(&self, index: u16) {
        self.used_word(1).store(index.to_le(), Ordering::Release);
    }

    fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }
}

/// Finds one area in the guest's memory, aligned as the specification demands.
fn area(
    memory: &GuestMemory,
    address: u64,
    len: usize,
    align: usize,
    what: &'static str,
) -> Result<*mut u8> {
    let area = memory.contiguous(address, len).ok_or_else(|| {
        invalid(format!(
            "{what} at {address:#x} lies outside of the guest's memory"
        ))
    })?;
    // A region may begin at any offset of its file, so both views of the address are checked.
    if !address.is_multiple_of(align as u64) || !area.as_ptr().addr().is_multiple_of(align) {
        return Err(invalid(format!(
            "{what} at {address:#x} is not aligned to {align} bytes"
        )));
    }
    Ok(area.as_ptr())
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
