//! The bounce buffers of one channel.
//!
//! A request with misaligned memory goes through a buffer, piece by piece. Buffers are few and small, so a guest that
//! misaligns everything costs itself speed and us a bounded amount of memory.
#![forbid(unsafe_code)]

use crate::block::bounce::Bounce;
use crate::block::request::{Op, Request};

/// The most buffers of one channel.
const COUNT_MAX: usize = 32;

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
