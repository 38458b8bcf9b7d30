//! The memory of a request: what is left of it as slices; copies and zeroes.
//!
//! # Invariants
//! Those of [`Request`]: the segments are valid while the request is there, and others may change them at any time.
#![allow(unsafe_code)] // segments are raw memory, usually a guest's

use std::ptr;

use vm_memory::VolatileSlice;

use super::{Op, Request};

impl Request {
    /// Whether all of its memory is zero. A guest may change it later; what it gets then is up to the guest.
    pub(in crate::block) fn is_all_zeroes(&self) -> bool {
        let mut buffer = [0; 4096];
        self.slices(usize::MAX).all(|slice| {
            (0..slice.len()).step_by(buffer.len()).all(|at| {
                let count = slice.offset(at).map_or(0, |rest| rest.copy_to(&mut buffer));
                buffer[..count].iter().all(|&byte| byte == 0)
            })
        })
    }

    /// Fills what is left with zeroes and ends the transfer: the file ends here.
    pub(in crate::block) fn fill_rest_with_zeroes(&mut self) {
        self.zero_from(0, usize::MAX);
        self.advance(self.remaining());
    }

    /// Fills `count` of the next bytes to transfer with zeroes, after the first `skip`.
    pub(in crate::block) fn zero_from(&self, skip: usize, count: usize) {
        let zeroes = &ZEROES.0[..4096];
        for slice in self.slices_from(skip, count) {
            let mut at = 0;
            while let Ok(rest) = slice.offset(at)
                && !rest.is_empty()
            {
                rest.copy_from(zeroes);
                at += zeroes.len().min(rest.len());
            }
        }
    }

    /// Fills `buffer` with the next bytes to write.
    pub(in crate::block) fn copy_out(&self, buffer: &mut [u8]) {
        self.copy_out_from(0, buffer);
    }

    /// The same without the first `skip` bytes.
    pub(in crate::block) fn copy_out_from(&self, skip: usize, buffer: &mut [u8]) {
        match self.op {
            Op::Write => {
                self.gather(skip, buffer);
            }
            _ => buffer.fill(0),
        }
    }

    /// Copies the next bytes to transfer without the first `skip` into `buffer`; returns how many.
    pub(super) fn gather(&self, skip: usize, buffer: &mut [u8]) -> usize {
        let mut at = 0;
        for slice in self.slices_from(skip, buffer.len()) {
            at += slice.copy_to(&mut buffer[at..at + slice.len()]);
        }
        at
    }

    /// Copies `buffer` to the next bytes to transfer; returns how many fitted.
    pub(in crate::block) fn scatter(&self, buffer: &[u8]) -> usize {
        self.scatter_from(0, buffer)
    }

    /// The same without the first `skip` bytes.
    pub(in crate::block) fn scatter_from(&self, skip: usize, buffer: &[u8]) -> usize {
        let mut at = 0;
        for slice in self.slices_from(skip, buffer.len()) {
            slice.copy_from(&buffer[at..at + slice.len()]);
            at += slice.len();
        }
        at
    }

    /// Appends the memory of the next `count` bytes to transfer to the segments of `other`.
    ///
    /// # Safety
    /// This request stays until `other` has come back finished or was dropped.
    pub(in crate::block) unsafe fn lend(&self, count: usize, other: &mut Request) {
        for part in self.parts(0, count) {
            // SAFETY: the memory stays as long as this request (invariant 1), which stays long enough.
            unsafe { other.push_segment(part.iov_base.cast(), part.iov_len) };
        }
    }

    /// Fills the memory of the next `count` bytes to transfer with zeroes, and notes that they are done.
    pub(in crate::block) fn fill_with_zeroes(&mut self, count: u64) {
        let mut left = count.min(self.remaining());
        while left > 0 {
            let len = left.min(ZEROES.0.len() as u64);
            self.scatter(&ZEROES.0[..usize::try_from(len).unwrap_or(0)]);
            self.advance(len);
            left -= len;
        }
    }

    /// The memory not yet transferred, as pieces that are not empty.
    pub(in crate::block) fn pieces(&self) -> Vec<VolatileSlice<'_>> {
        self.slices(usize::MAX)
            .filter(|slice| !slice.is_empty())
            .collect()
    }

    /// The memory of the next bytes to transfer, `limit` at most.
    fn slices(&self, limit: usize) -> impl Iterator<Item = VolatileSlice<'_>> {
        self.slices_from(0, limit)
    }

    /// The same without the first `skip` bytes.
    fn slices_from(&self, skip: usize, limit: usize) -> impl Iterator<Item = VolatileSlice<'_>> {
        self.parts(skip, limit).map(|part| {
            // SAFETY: the segment is valid while the request is there (invariant 1).
            unsafe { VolatileSlice::new(part.iov_base.cast(), part.iov_len) }
        })
    }

    /// The segments of the next bytes to transfer without the first `skip`, `limit` at most.
    fn parts(&self, skip: usize, limit: usize) -> impl Iterator<Item = libc::iovec> {
        let (mut skip, mut left) = (skip, limit);
        self.segments[self.first..]
            .iter()
            .map_while(move |segment| {
                let skipped = segment.iov_len.min(skip);
                let iov_len = (segment.iov_len - skipped).min(left);
                let is_wanted = left > 0;
                skip -= skipped;
                left -= iov_len;
                is_wanted.then_some(libc::iovec {
                    iov_base: segment.iov_base.wrapping_byte_add(skipped),
                    iov_len,
                })
            })
    }

    /// Makes the request's memory `count` bytes of constant zeroes, for zeroing by writing.
    pub(in crate::block) fn borrow_zeroes(&mut self) {
        self.segments.clear();
        self.first = 0;
        self.taken = 0;
        let mut left = self.remaining().min(ZEROES_MAX);
        while left > 0 {
            let len = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(ZEROES.0.len());
            self.segments.push(libc::iovec {
                iov_base: ptr::from_ref(&ZEROES.0).cast_mut().cast(),
                iov_len: len,
            });
            left -= len as u64;
        }
    }
}

/// Zeroes to write from, aligned for direct I/O.
#[repr(align(4096))]
struct Zeroes([u8; 64 * 1024]);

static ZEROES: Zeroes = Zeroes([0; 64 * 1024]);

/// The most zeroes written by one system call.
const ZEROES_MAX: u64 = 1 << 20;
