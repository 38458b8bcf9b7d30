//! An aligned buffer for direct I/O on memory, offsets or lengths that are not aligned.
//!
//! Used by [`super::request`], which carries one along, and by the [way to a file](super::way::file), which has a few. A
//! request goes through its buffer piece by piece. A [`Piece`] is one transfer of whole blocks, of which the request may want
//! a part.
#![allow(unsafe_code)] // aligned allocation

use std::alloc::{self, Layout};
use std::ptr::NonNull;
use std::slice;

use gsource::IoMemory;

/// The size of one buffer.
const LEN: usize = 128 * 1024;

/// What a buffer is aligned to: the most that direct I/O may demand.
pub(super) const ALIGN: usize = 64 * 1024;

/// One transfer through a buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where the transfer begins in the file.
    pub(super) start: u64,
    /// How long it is.
    pub(super) length: u64,
    /// How many of its bytes come before the request's.
    pub(super) skip: u64,
    /// How many of its bytes are the request's.
    pub(super) count: u64,
}

impl Piece {
    /// The blocks of `unit` bytes around the `remaining` bytes from `at`, as far as they fit into a buffer: for reading.
    pub(super) fn around(at: u64, remaining: u64, unit: u64) -> Piece {
        let skip = at % unit;
        let length = (skip + remaining).next_multiple_of(unit).min(LEN as u64);
        Piece {
            start: at - skip,
            length,
            skip,
            count: remaining.min(length - skip),
        }
    }

    /// What can be written next: whole blocks, or a part of one block.
    pub(super) fn blocks(at: u64, remaining: u64, unit: u64) -> Piece {
        let whole = remaining.min(LEN as u64) / unit * unit;
        if at.is_multiple_of(unit) && whole > 0 {
            return Piece::exact(at, whole);
        }
        let to_border = unit - at % unit;
        Piece::around(at, remaining.min(to_border), unit)
    }

    /// The request's bytes alone, as far as they fit into a buffer.
    pub(super) fn exact(at: u64, remaining: u64) -> Piece {
        let length = remaining.min(LEN as u64);
        Piece {
            start: at,
            length,
            skip: 0,
            count: length,
        }
    }

    /// Whether only a part of its bytes is the request's.
    pub(super) fn is_partial(self) -> bool {
        self.count < self.length
    }

    /// How many of the request's bytes are among the first `count` of the transfer.
    pub(super) fn wanted(self, count: u64) -> u64 {
        count.saturating_sub(self.skip).min(self.count)
    }
}

/// What the buffer of a request that writes is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum BounceStage {
    /// The next piece.
    #[default]
    Next,
    /// The block around a partial piece is being read.
    Filling,
    /// It has been read.
    Filled,
    /// The rest of the request goes through the page cache.
    Cached,
}

/// An aligned buffer.
#[derive(Debug)]
pub(super) struct Bounce {
    start: NonNull<u8>,
    /// Describes the bytes of the current transfer.
    vector: [libc::iovec; 1],
    /// The alignment of offsets and lengths that the request is carried out with.
    pub(super) unit: u64,
    pub(super) stage: BounceStage,
    piece: Piece,
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
            unit: 1,
            stage: BounceStage::Next,
            piece: Piece::default(),
        }
    }

    /// Makes it ready for a request.
    pub(super) fn begin(&mut self, unit: u64) {
        self.unit = unit;
        self.stage = BounceStage::Next;
    }

    /// Makes `piece` the next transfer.
    pub(super) fn set_piece(&mut self, piece: Piece) {
        self.piece = piece;
        self.set_length(piece.length);
    }

    /// Makes the next transfer as long as `length` or the buffer.
    pub(super) fn set_length(&mut self, length: u64) {
        self.vector[0].iov_len = index(length).min(LEN);
    }

    pub(super) fn piece(&self) -> Piece {
        self.piece
    }

    /// The buffer as a system call wants it.
    pub(super) fn memory(&mut self) -> IoMemory<'_> {
        // SAFETY: the vector describes memory that we own and that nothing else uses while this borrow lasts.
        unsafe { IoMemory::new(&self.vector) }
    }

    /// The first `count` of the request's bytes in it.
    pub(super) fn content(&mut self, count: u64) -> &mut [u8] {
        let start = index(self.piece.skip);
        &mut self.bytes_mut()[start..start + index(count)]
    }

    /// The bytes of the transfer.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: initialised bytes that we own; no call of the kernel is under way when they are looked at.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.vector[0].iov_len) }
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout and not given away.
        unsafe { alloc::dealloc(self.start.as_ptr(), Self::LAYOUT) };
    }
}

/// A place in a buffer.
fn index(place: u64) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(piece: Piece) -> [u64; 4] {
        [piece.start, piece.length, piece.skip, piece.count]
    }

    #[test]
    fn reads_take_the_blocks_around() {
        let len = LEN as u64;
        let cases = [
            ((512, 512), [0, 4096, 512, 512]),
            ((4096, 4096), [4096, 4096, 0, 4096]),
            ((4000, 200), [0, 8192, 4000, 200]),
            ((512, 1 << 20), [0, len, 512, len - 512]),
        ];
        for ((at, remaining), expected) in cases {
            let piece = Piece::around(at, remaining, 4096);
            assert_eq!(parts(piece), expected, "{at} {remaining}");
        }
    }

    #[test]
    fn writes_take_whole_blocks_or_a_part_of_one() {
        let len = LEN as u64;
        let cases = [
            ((512, 512), [0, 4096, 512, 512]),
            ((512, 1 << 20), [0, 4096, 512, 3584]),
            ((4096, 1 << 20), [4096, len, 0, len]),
            ((4096, 9000), [4096, 8192, 0, 8192]),
            ((12288, 808), [12288, 4096, 0, 808]),
        ];
        for ((at, remaining), expected) in cases {
            let piece = Piece::blocks(at, remaining, 4096);
            assert_eq!(parts(piece), expected, "{at} {remaining}");
            assert_eq!(piece.is_partial(), piece.count < 4096);
        }
    }

    #[test]
    fn only_the_bytes_behind_the_skipped_ones_are_wanted() {
        let piece = Piece::around(512, 1024, 4096);
        let wanted = [0, 512, 600, 1536, 4096].map(|count| piece.wanted(count));
        assert_eq!(wanted, [0, 0, 88, 1024, 1024]);
    }
}
