//! Chunks of a reply, checked against the request that they answer: errors, holes, extents.
#![forbid(unsafe_code)]

use super::flight::Flight;
use crate::block::request::SECTOR;
use crate::block::status::BlockStatus;
use crate::nbd::protocol::Malformed;
use crate::nbd::protocol::errno::to_errno;
use crate::nbd::protocol::meta::{StatusChunk, allocation as allocation_flag};
use crate::nbd::protocol::reply::{ErrorChunk, HoleChunk, chunk};
use crate::nbd::protocol::request::command;

/// How many errors one reply may have.
const ERROR_CHUNKS_MAX: u32 = 16;

impl Flight {
    /// Notes that so many bytes of data come.
    pub(super) fn expect_data(&mut self, count: u64) -> Result<(), Malformed> {
        self.received = self.received.saturating_add(count);
        let fits = self.received <= self.length;
        fits.then_some(())
            .ok_or(Malformed("reply has more than was asked for"))
    }

    /// Where a range of the export is in the round.
    pub(super) fn place_of(&self, offset: u64, length: u64) -> Result<u64, Malformed> {
        let at = offset.checked_sub(self.request.position());
        let at = at.filter(|at| at.checked_add(length).is_some_and(|end| end <= self.length));
        at.ok_or(Malformed("chunk is outside of the request"))
    }
}

/// Whether chunks of this kind are taken as a whole, and answer the command.
pub(super) fn is_short(kind: u16, command: u16) -> bool {
    match kind {
        chunk::OFFSET_HOLE => command == command::READ,
        chunk::BLOCK_STATUS | chunk::BLOCK_STATUS_EXT => command == command::BLOCK_STATUS,
        _ => chunk::is_error(kind),
    }
}

/// Takes the payload of such a chunk.
pub(super) fn take_payload(
    asked: &mut Flight,
    kind: u16,
    payload: &[u8],
    allocation: Option<u32>,
) -> Result<(), Malformed> {
    match kind {
        chunk::OFFSET_HOLE => take_hole(asked, HoleChunk::decode(payload)?),
        chunk::BLOCK_STATUS => take_status(asked, &StatusChunk::decode(payload)?, allocation),
        chunk::BLOCK_STATUS_EXT => {
            take_status(asked, &StatusChunk::decode_extended(payload)?, allocation)
        }
        _ => take_error(asked, &ErrorChunk::decode(kind, payload)?),
    }
}

fn take_error(asked: &mut Flight, error: &ErrorChunk) -> Result<(), Malformed> {
    if asked.errno == 0 {
        asked.errno = to_errno(error.error);
    }
    asked.error_chunks += 1;
    let is_bounded = asked.error_chunks <= ERROR_CHUNKS_MAX;
    is_bounded
        .then_some(())
        .ok_or(Malformed("reply has too many errors"))
}

fn take_hole(asked: &mut Flight, hole: HoleChunk) -> Result<(), Malformed> {
    let length = hole.length.into();
    asked.expect_data(length)?;
    let at = asked.place_of(hole.offset, length)?;
    let (at, length) = (usize::try_from(at), usize::try_from(length));
    if let (Ok(at), Ok(length)) = (at, length) {
        asked.request.zero_from(at, length);
    }
    Ok(())
}

/// Only the first extent was asked for.
fn take_status(
    asked: &mut Flight,
    status: &StatusChunk,
    allocation: Option<u32>,
) -> Result<(), Malformed> {
    if Some(status.context) != allocation {
        return Err(Malformed("block status has an unknown context"));
    }
    asked.expect_data(asked.length)?;
    let extent = status.extents.first();
    let extent = extent.ok_or(Malformed("block status has no extents"))?;
    let length = extent.length.min(asked.length);
    let whole = length - length % SECTOR;
    asked.request.set_status(match whole {
        // A block of which the server has a part.
        0 => BlockStatus::data(SECTOR),
        _ => BlockStatus {
            length: whole,
            has_data: extent.flags & allocation_flag::HOLE == 0,
            is_zero: extent.flags & allocation_flag::ZERO != 0,
            depth: 1,
        },
    });
    Ok(())
}
