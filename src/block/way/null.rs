//! The way to a null disk, which finishes each request when it is submitted.
//!
//! Used by a channel whose node has the driver `null-co`. There is no data: writes vanish.
#![forbid(unsafe_code)]

use crate::block::budget::Budget;
use crate::block::request::{Finished, Op, Request};
use crate::block::status::BlockStatus;

/// A queue's way to a null disk.
#[derive(Clone, Copy, Debug)]
pub(in crate::block) struct NullWay {
    /// Whether reads return zeroes. If not, they leave the memory as it is.
    pub(in crate::block) read_zeroes: bool,
}

impl NullWay {
    /// Carries out any request at once.
    #[inline]
    pub(super) fn run(self, mut request: Box<Request>, budget: &mut Budget) -> Finished {
        match request.op {
            Op::Read if self.read_zeroes => {
                request.fill_rest_with_zeroes();
                budget.charge(request.length);
            }
            Op::BlockStatus => request.set_status(self.status(request.length)),
            _ => {}
        }
        Finished { request, result: 0 }
    }

    fn status(self, length: u64) -> BlockStatus {
        match self.read_zeroes {
            true => BlockStatus::zeroes(length),
            false => BlockStatus {
                length,
                ..BlockStatus::default()
            },
        }
    }
}
