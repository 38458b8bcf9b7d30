//! Aligned buffers for direct I/O on memory that is not aligned.
//!
//! Used by [`super::FileWay`]: a request with misaligned memory goes through a buffer, piece by piece. Buffers are
//! few and small, so a guest that misaligns everything costs itself speed and us a bounded amount of memory.
#![allow(unsafe_code)] // aligned allocation

use std::alloc::{self, Layout};
use std::ptr::NonNull;
use std::slice;

use crate::block::request::{Memory, Op, Request};

/// The size of one buffer.
const LEN: usize = 128 * 1024;

/// The most buffers of one channel.
const COUNT_MAX: usize = 32;

/// Good for every device.
const ALIGN: usize = 4096;

/// An aligned buffer.
#[derive(Debug)]
pub(in crate::block) struct Bounce {
    start: NonNull<u8>,
    vector: [libc::iovec; 1],
}

// SAFETY: the buffer is owned memory without ties to a thread; the vector points into it.
unsafe impl Send for Bounce {}

impl Bounce {
    const LAYOUT: Layout = match Layout::from_size_align(LEN, ALIGN) {
        Ok(layout) => layout,
        Err(_) => panic!("the constants make a layout"),
    };

    fn new() -> Bounce {
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

    /// Makes the next transfer as long as `remaining` or the buffer; returns that length.
    pub(super) fn prepare(&mut self, remaining: u64) -> usize {
        let len = usize::try_from(remaining).unwrap_or(usize::MAX).min(LEN);
        self.vector[0].iov_len = len;
        len
    }

    /// The buffer as the kernel wants it.
    pub(super) fn memory(&self) -> Memory<'_> {
        // SAFETY: the vector describes memory that we own and that nobody looks at while this borrow lasts.
        unsafe { Memory::new(&self.vector) }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: LEN initialised bytes that we own; no call of the kernel is under way when they are looked at.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), LEN) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), LEN) }
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout and not given away.
        unsafe { alloc::dealloc(self.start.as_ptr(), Self::LAYOUT) };
    }
}

/// The buffers of one channel.
#[derive(Debug)]
pub(super) struct Bounces {
    /// What memory must be aligned to; `None` if it need not be.
    align: Option<usize>,
    free: Vec<Bounce>,
    made: usize,
}

impl Bounces {
    /// Buffers for memory that must be aligned to `align`, if it must.
    pub(super) fn new(align: Option<usize>) -> Self {
        Bounces {
            align,
            free: Vec::new(),
            made: 0,
        }
    }

    /// Whether `request` needs a buffer.
    pub(super) fn wants(&self, request: &Request) -> bool {
        let transfers = matches!(request.op, Op::Read | Op::Write);
        transfers && self.align.is_some_and(|align| request.is_misaligned(align))
    }

    /// A buffer, unless too many are out.
    pub(super) fn take(&mut self) -> Option<Bounce> {
        if let Some(bounce) = self.free.pop() {
            return Some(bounce);
        }
        if self.made == COUNT_MAX {
            return None;
        }
        self.made += 1;
        Some(Bounce::new())
    }

    pub(super) fn put(&mut self, bounce: Bounce) {
        self.free.push(bounce);
    }
}
