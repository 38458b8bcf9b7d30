//! Inline I/O: what the page cache can answer is answered before anything is queued.
//!
//! Used by [`super::FileWay`]. Page-cache mode only. On tmpfs plain preadv2 and pwritev2 never wait for a device;
//! elsewhere reads carry RWF_NOWAIT, and what that leaves over goes to the engine, errors included. Requests are limited in size, and
//! a batch in its sum, so that copying for one disk does not keep its neighbours waiting.
#![forbid(unsafe_code)]

use std::ops::ControlFlow;
use std::os::fd::AsFd;

use super::step::{next_step, note_refusal, take_result};
use crate::block::budget::Budget;
use crate::block::image::Image;
use crate::block::request::{Op, Request};

/// The longest request that is tried inline.
const REQUEST_MAX: u64 = 64 * 1024;

/// Where inline I/O can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inline {
    Never,
    /// Reads and writes, plain.
    InMemory,
    /// Reads with RWF_NOWAIT.
    Nowait,
}

impl Inline {
    pub(super) fn new(image: &Image) -> Self {
        match image.direct {
            Some(_) => Inline::Never,
            None if image.in_memory => Inline::InMemory,
            None => Inline::Nowait,
        }
    }

    /// The request's result if it could be carried out at once. What was moved of an unfinished one stays moved.
    pub(super) fn try_run(
        self,
        image: &Image,
        request: &mut Request,
        budget: &mut Budget,
    ) -> Option<i32> {
        let flags = self.flags(image, request.op)?;
        if request.length > REQUEST_MAX || budget.is_spent() {
            return None;
        }
        budget.charge(request.length);
        let result = next_step(image, request).run(image.as_fd(), flags);
        if result < 0 && flags != 0 {
            note_refusal(&image.nowait, result);
            return None;
        }
        match take_result(image, request, result) {
            ControlFlow::Break(result) => Some(result),
            ControlFlow::Continue(()) => None,
        }
    }

    /// The flags for an inline attempt, if there is to be one.
    fn flags(self, image: &Image, op: Op) -> Option<i32> {
        match (self, op) {
            (Inline::InMemory, Op::Read | Op::Write) => Some(0),
            (Inline::Nowait, Op::Read) if image.nowait.is_present() => Some(libc::RWF_NOWAIT),
            _ => None,
        }
    }
}
