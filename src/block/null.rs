//! `null-co`: a disk without anything behind it, for measuring.
//!
//! Writes vanish. Reads leave the memory as it is, or zero it with `read-zeroes=on`.
#![forbid(unsafe_code)]

use super::request::{Op, Request};

/// The size of a null disk when none is given.
pub(super) const DEFAULT_SIZE: u64 = 1 << 30;

/// A null disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Null {
    /// Whether reads return zeroes.
    pub(super) read_zeroes: bool,
}

impl Null {
    /// Carries out any request at once; returns how many bytes of memory it touched.
    pub(super) fn run(self, request: &mut Request) -> u64 {
        if self.read_zeroes && request.op == Op::Read {
            request.fill_rest_with_zeroes();
            return request.length;
        }
        0
    }
}
