//! An aligned buffer for direct I/O on memory that is not aligned.
//!
//! Used by [`super::request`], which carries one along, and by the [way to a file](super::way::file), which has a few.
#![allow(unsafe_code)] // aligned allocation

use std::alloc::{self, Layout};
use std::ptr::NonNull;
use std::slice;

use gsource::IoMemory;

/// The size of one buffer.
const LEN: usize = 128 * 1024;

/// Good for every device.
const ALIGN: usize = 4096;

/// An aligned buffer.
#[derive(Debug)]
pub(super) struct Bounce {
    start: NonNull<u8>,
    /// Describes the bytes of the current transfer.
    vector: [libc::iovec; 1],
}

// SAFETY: the buffer is owned memory without ties to a thread; the vector points into it.
unsafe impl Send for Bounce {}

impl Bounce {
    const LAYOUT: Layout = match Layout::from_size_align(LEN, ALIGN) {
        Ok(layout) => layout,
        Err(_) => panic!("the constants make a layout"),
    };

    pub(super) fn new() -> Bounce {
        // SAFETY: the layout has a size.
        let start = unsafe { alloc::alloc_zeroed(Self::LAYOUT) };
        let Some(start) = NonNull::new(start) else {
            alloc::handle_alloc_error(Self::LAYOUT)
        };
        let vector = libc::iovec {
            iov_base: start.as_ptr().cast(),
            iov_len: LEN,
        };
        Bounce {
            start,
            vector: [vector],
        }
    }

    /// Makes the next transfer as long as `remaining` or the buffer.
    pub(super) fn set_remaining(&mut self, remaining: u64) {
        let remaining = usize::try_from(remaining).unwrap_or(usize::MAX);
        self.vector[0].iov_len = remaining.min(LEN);
    }

    /// The buffer as a system call wants it.
    pub(super) fn memory(&mut self) -> IoMemory<'_> {
        // SAFETY: the vector describes memory that we own and that nothing else uses while this borrow lasts.
        unsafe { IoMemory::new(&self.vector) }
    }

    /// The bytes of the transfer.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: initialised bytes that we own; no call of the kernel is under way when they are looked at.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.vector[0].iov_len) }
    }

    /// The bytes of the transfer.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.vector[0].iov_len) }
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout and not given away.
        unsafe { alloc::dealloc(self.start.as_ptr(), Self::LAYOUT) };
    }
}
