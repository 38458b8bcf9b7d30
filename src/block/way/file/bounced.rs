//! Direct I/O through a bounce buffer: what comes next, and what its result means.
//!
//! Used by [`super::step`] for requests that carry a buffer. Reads read the blocks around what is wanted. Writes write whole
//! blocks; of a block that is written in part, the rest is read before. If that read finds the end of the file in the block,
//! direct I/O cannot write it without making the file longer, and the page cache takes the write.
#![forbid(unsafe_code)]

use std::ops::ControlFlow;

use gsource::FileCall;

use crate::block::bounce::{Bounce, BounceStage, Piece};
use crate::block::image::Image;
use crate::block::request::{Op, Request};

/// Decides the next call of a request with a bounce buffer.
pub(super) fn next_transfer<'a>(request: &'a mut Request, mut bounce: Bounce) -> FileCall<'a> {
    let (at, remaining) = (request.position(), request.remaining());
    let is_read = match (request.op, bounce.stage) {
        (Op::Read, _) => {
            bounce.set_piece(Piece::around(at, remaining, bounce.unit));
            true
        }
        (_, BounceStage::Next) => {
            bounce.set_piece(Piece::blocks(at, remaining, bounce.unit));
            bounce.piece().is_partial()
        }
        (_, BounceStage::Filling) => true,
        (_, BounceStage::Filled) => false,
        (_, BounceStage::Cached) => {
            bounce.set_piece(Piece::exact(at, remaining));
            false
        }
    };
    if is_read && request.op != Op::Read {
        bounce.stage = BounceStage::Filling;
    }
    if !is_read {
        let count = bounce.piece().count;
        request.copy_out(bounce.content(count));
    }
    let start = bounce.piece().start;
    let memory = request.bounce.insert(bounce).memory();
    match is_read {
        true => FileCall::Read(memory, start),
        false => FileCall::Write(memory, start),
    }
}

/// Takes in that `count` bytes were transferred: breaks with the request's result when it is finished.
pub(super) fn transferred(
    image: &Image,
    request: &mut Request,
    mut bounce: Bounce,
    count: u64,
) -> ControlFlow<i32> {
    let (piece, stage) = (bounce.piece(), bounce.stage);
    let wanted = piece.wanted(count);
    if request.op == Op::Read {
        request.scatter(bounce.content(wanted));
        request.bounce = Some(bounce);
        return request.has_read(wanted);
    }
    if stage == BounceStage::Filling {
        bounce.stage = match count == piece.length {
            true => BounceStage::Filled,
            false => BounceStage::Cached,
        };
        let can_go_on = bounce.stage == BounceStage::Filled || image.cached().is_some();
        request.bounce = Some(bounce);
        return match can_go_on {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(-libc::EIO),
        };
    }
    if stage == BounceStage::Filled {
        bounce.stage = BounceStage::Next;
    }
    request.bounce = Some(bounce);
    request.has_written(wanted)
}
