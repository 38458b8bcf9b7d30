//! Memory for requests of this process, aligned for direct I/O.
//!
//! Used with a [`BlockBackend`](super::BlockBackend), by exports and jobs.
//!
//! # Invariants
//! 1. `start` is an allocation of `capacity` initialised bytes, which the buffer owns; `len` is at most `capacity`.
#![allow(unsafe_code)] // aligned allocation

use std::alloc::{self, Layout};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

/// What a buffer is aligned to, and its size is a multiple of.
const ALIGN: usize = 4096;

/// See the head of this file.
pub struct IoBuffer {
    start: NonNull<u8>,
    len: usize,
    capacity: usize,
}

// SAFETY: owned memory without ties to a thread.
unsafe impl Send for IoBuffer {}

// SAFETY: a shared buffer is only read.
unsafe impl Sync for IoBuffer {}

impl IoBuffer {
    /// Zeroes.
    pub fn zeroed(len: usize) -> IoBuffer {
        let capacity = len.max(1).next_multiple_of(ALIGN);
        // SAFETY: the layout has a size.
        let start = unsafe { alloc::alloc_zeroed(Self::layout(capacity)) };
        let Some(start) = NonNull::new(start) else {
            alloc::handle_alloc_error(Self::layout(capacity))
        };
        IoBuffer {
            start,
            len,
            capacity,
        }
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> IoBuffer {
        let mut buffer = IoBuffer::zeroed(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }

    /// How long it can become without new memory.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes it `len` bytes long. Which bytes these are does not matter to the caller.
    pub fn set_len(&mut self, len: usize) {
        if len > self.capacity {
            *self = IoBuffer::zeroed(len);
        }
        self.len = len;
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, ALIGN).expect("a buffer fits into memory")
    }
}

impl Deref for IoBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: invariant 1.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for IoBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: invariant 1.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for IoBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout and not given away.
        unsafe { alloc::dealloc(self.start.as_ptr(), Self::layout(self.capacity)) };
    }
}

impl fmt::Debug for IoBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IoBuffer({})", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_keeps_its_memory_until_it_needs_more() {
        let mut buffer = IoBuffer::copy_of(&[7; 5000]);
        assert_eq!((buffer.len(), buffer.capacity()), (5000, 8192));
        assert!(buffer.as_ptr().addr().is_multiple_of(4096));
        let start = buffer.as_ptr();
        buffer.set_len(3);
        assert_eq!((&buffer[..], buffer.as_ptr()), (&[7; 3][..], start));
        buffer.set_len(8193);
        assert_eq!(buffer[..], [0; 8193]);
        assert_eq!(IoBuffer::zeroed(0)[..], []);
    }
}
