//! A piece of guest memory, borrowed from the snapshot that it was translated with.
//!
//! Used by [`super::super::queue`], which makes chains of them, and by device models, which copy in and out or hand the
//! pointers to the kernel.
//!
//! # Invariants
//! 1. A slice lies within one mapping of the snapshot that its lifetime borrows, so its memory is mapped for that long.
//!    Only translation makes slices, and the fields are private.
//! 2. The guest changes the memory at any time: it is never borrowed as `&[u8]`, only copied by volatile access.
#![allow(unsafe_code)] // raw access to memory that another process writes

use std::marker::PhantomData;
use std::ptr::NonNull;

use vm_memory::VolatileSlice;

use super::GuestMemory;

/// A piece of guest memory in this process's address space.
#[derive(Clone, Copy, Debug)]
pub struct GuestSlice<'m> {
    start: *mut u8,
    len: usize,
    memory: PhantomData<&'m GuestMemory>,
}

/// Where a byte of guest memory is, without the right to touch it: see [`GuestMemory::write_byte`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct BytePlace(NonNull<u8>);

// SAFETY: a slice is an address range of shared memory, valid from any thread while its snapshot lives (invariant 1).
unsafe impl Send for GuestSlice<'_> {}

// SAFETY: a place is a number; the memory behind it is valid from any thread while its snapshot lives.
unsafe impl Send for BytePlace {}

impl GuestSlice<'_> {
    /// The `len` bytes from `start`.
    ///
    /// # Safety
    /// They lie within one mapping that lives for the slice's lifetime.
    pub(super) unsafe fn new(start: *mut u8, len: usize) -> Self {
        GuestSlice {
            start,
            len,
            memory: PhantomData,
        }
    }

    /// Its number of bytes.
    pub fn len(self) -> usize {
        self.len
    }

    /// True if it has no bytes.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Its first byte, for system calls. The caller keeps the snapshot for as long as the pointer is used.
    pub fn as_ptr(self) -> *mut u8 {
        self.start
    }

    /// Its first `len` bytes, or all of it.
    #[must_use]
    pub fn first(self, len: usize) -> Self {
        GuestSlice {
            len: self.len.min(len),
            ..self
        }
    }

    /// What follows its first `len` bytes.
    #[must_use]
    pub fn after(self, len: usize) -> Self {
        let skip = self.len.min(len);
        GuestSlice {
            start: self.start.wrapping_add(skip),
            len: self.len - skip,
            ..self
        }
    }

    /// Copies it out, as much as `into` takes.
    pub fn read(self, into: &mut [u8]) {
        self.volatile().copy_to(into);
    }

    /// Copies `from` in, as much as the slice takes.
    pub fn write(self, from: &[u8]) {
        self.volatile().copy_from(from);
    }

    /// Where its last byte is.
    pub(crate) fn last_byte(self) -> Option<BytePlace> {
        let last = self.len.checked_sub(1)?;
        NonNull::new(self.start.wrapping_add(last)).map(BytePlace)
    }

    fn volatile(&self) -> VolatileSlice<'_> {
        // SAFETY: the range is mapped for the slice's lifetime (invariant 1), which outlives the borrow.
        unsafe { VolatileSlice::new(self.start, self.len) }
    }
}

impl GuestMemory {
    /// Writes one byte where a slice of this snapshot had it.
    ///
    /// # Safety
    /// The place comes from a slice of this snapshot or of a clone of it.
    pub(crate) unsafe fn write_byte(&self, place: BytePlace, byte: u8) {
        // SAFETY: the snapshot, which `self` holds, keeps the mapping; the guest's accesses are not ours to order.
        unsafe { place.0.write_volatile(byte) };
    }
}
