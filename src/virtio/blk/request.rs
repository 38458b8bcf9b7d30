//! Takes a chain apart: header, data, status.
//!
//! Used by [`super::queue`]. The borders between descriptors mean nothing; header and status may be split or joined
//! with the data in any way. Lengths and ranges are judged by the block layer and by [`Range`].
#![forbid(unsafe_code)]

use std::cmp::Ordering;

use super::config::{RANGE_MAX, SECTOR};
use crate::block::Op;
use crate::virtio::memory::GuestSlice;
use crate::virtio::queue::{Broken, Chain};

/// The request was carried out.
pub(super) const STATUS_OK: u8 = 0;
/// The request failed.
pub(super) const STATUS_IOERR: u8 = 1;
/// The disk does not know such requests.
pub(super) const STATUS_UNSUPP: u8 = 2;

/// The length of the disk's id.
pub(super) const ID_LEN: usize = 20;

const HEADER_LEN: usize = 16;
const RANGE_LEN: usize = 16;

/// What a request's header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    Read,
    Write,
    Flush,
    GetId,
    Discard,
    WriteZeroes,
    Unsupported,
}

/// A chain, taken apart.
#[derive(Debug)]
pub(super) struct Frame<'a, 'm> {
    chain: &'a Chain<'m>,
    /// `None` if the header is cut off.
    pub(super) header: Option<(RequestKind, u64)>,
}

impl<'a, 'm> Frame<'a, 'm> {
    /// Finds the header.
    ///
    /// # Errors
    /// `Broken` if there is no room for a status, without which the guest gets no answer.
    pub(super) fn new(chain: &'a Chain<'m>) -> Result<Self, Broken> {
        if chain.writable_len() == 0 {
            return Err(Broken("request without room for a status"));
        }
        Ok(Frame {
            header: read_header(chain),
            chain,
        })
    }

    /// What the guest wants written or described, behind the header.
    pub(super) fn data_out(&self) -> impl Iterator<Item = GuestSlice<'m>> + 'a {
        let mut skip = HEADER_LEN;
        self.chain.readable().iter().filter_map(move |slice| {
            let rest = slice.after(skip);
            skip -= slice.len() - rest.len();
            (!rest.is_empty()).then_some(rest)
        })
    }

    /// Where the guest wants data, before the status.
    pub(super) fn data_in(&self) -> impl Iterator<Item = GuestSlice<'m>> + 'a {
        let mut left = self.chain.writable_len() - 1;
        self.chain.writable().iter().filter_map(move |slice| {
            let first = slice.first(usize::try_from(left).unwrap_or(usize::MAX));
            left -= first.len() as u64;
            (!first.is_empty()).then_some(first)
        })
    }

    /// The range of a discard or write-zeroes request, or the status that refuses it.
    pub(super) fn range(&self, kind: RequestKind) -> Result<Range, u8> {
        let length: u64 = self.data_out().map(|slice| slice.len() as u64).sum();
        match length.cmp(&(RANGE_LEN as u64)) {
            Ordering::Less => return Err(STATUS_IOERR),
            // More ranges than the one that the configuration announces.
            Ordering::Greater => return Err(STATUS_UNSUPP),
            Ordering::Equal => {}
        }
        let mut bytes = [0; RANGE_LEN];
        collect(self.data_out(), &mut bytes);
        Range::parse(bytes, kind)
    }
}

/// A checked discard or write-zeroes range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) op: Op,
    pub(super) offset: u64,
    pub(super) length: u64,
}

impl Range {
    fn parse(b: [u8; RANGE_LEN], kind: RequestKind) -> Result<Range, u8> {
        let sector = u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
        let count = u32::from_le_bytes([b[8], b[9], b[10], b[11]]);
        let flags = u32::from_le_bytes([b[12], b[13], b[14], b[15]]);
        let op = match (kind, flags) {
            (RequestKind::WriteZeroes, 0 | 1) => Op::WriteZeroes { unmap: flags == 1 },
            (RequestKind::Discard, 0) => Op::Discard,
            _ => return Err(STATUS_UNSUPP),
        };
        if count > RANGE_MAX {
            return Err(STATUS_IOERR);
        }
        Ok(Range {
            op,
            offset: sector.checked_mul(SECTOR).ok_or(STATUS_IOERR)?,
            length: u64::from(count) * SECTOR,
        })
    }
}

fn read_header(chain: &Chain<'_>) -> Option<(RequestKind, u64)> {
    let mut b = [0; HEADER_LEN];
    if collect(chain.readable().iter().copied(), &mut b) < HEADER_LEN {
        return None;
    }
    let kind = match u32::from_le_bytes([b[0], b[1], b[2], b[3]]) {
        0 => RequestKind::Read,
        1 => RequestKind::Write,
        4 => RequestKind::Flush,
        8 => RequestKind::GetId,
        11 => RequestKind::Discard,
        13 => RequestKind::WriteZeroes,
        _ => RequestKind::Unsupported,
    };
    let sector = u64::from_le_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]);
    Some((kind, sector))
}

/// Copies slices into `into` until it is full; returns how much there was.
fn collect<'m>(slices: impl Iterator<Item = GuestSlice<'m>>, into: &mut [u8]) -> usize {
    let mut done = 0;
    for slice in slices {
        let part = slice.first(into.len() - done);
        part.read(&mut into[done..done + part.len()]);
        done += part.len();
        if done == into.len() {
            break;
        }
    }
    done
}

/// Copies as much of the id as there is room for; returns how much that was.
pub(super) fn distribute<'m>(
    from: &[u8; ID_LEN],
    slices: impl Iterator<Item = GuestSlice<'m>>,
) -> u32 {
    let mut done = 0;
    for slice in slices {
        let part = slice.first(from.len() - done);
        part.write(&from[done..done + part.len()]);
        done += part.len();
        if done == from.len() {
            break;
        }
    }
    u32::try_from(done).unwrap_or(u32::MAX)
}

/// A serial as the guest reads it: cut to 20 bytes, padded with zeroes.
pub(super) fn pad_id(serial: &str) -> [u8; ID_LEN] {
    let mut id = [0; ID_LEN];
    let len = serial.len().min(ID_LEN);
    id[..len].copy_from_slice(&serial.as_bytes()[..len]);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(sector: u64, count: u32, flags: u32, kind: RequestKind) -> Result<Range, u8> {
        let mut bytes = [0; RANGE_LEN];
        bytes[..8].copy_from_slice(&sector.to_le_bytes());
        bytes[8..12].copy_from_slice(&count.to_le_bytes());
        bytes[12..].copy_from_slice(&flags.to_le_bytes());
        Range::parse(bytes, kind)
    }

    #[test]
    fn ranges_are_limited_and_know_their_flags() {
        let zeroes = |unmap| Op::WriteZeroes { unmap };
        let cases = [
            (8, 8, 0, RequestKind::Discard, Ok((Op::Discard, 4096, 4096))),
            (8, 8, 1, RequestKind::Discard, Err(STATUS_UNSUPP)),
            (
                0,
                1,
                1,
                RequestKind::WriteZeroes,
                Ok((zeroes(true), 0, 512)),
            ),
            (
                0,
                1,
                0,
                RequestKind::WriteZeroes,
                Ok((zeroes(false), 0, 512)),
            ),
            (0, 1, 2, RequestKind::WriteZeroes, Err(STATUS_UNSUPP)),
            (0, RANGE_MAX + 1, 0, RequestKind::Discard, Err(STATUS_IOERR)),
            (u64::MAX, 1, 0, RequestKind::WriteZeroes, Err(STATUS_IOERR)),
        ];
        for (sector, count, flags, kind, expected) in cases {
            let got = range(sector, count, flags, kind).map(|r| (r.op, r.offset, r.length));
            assert_eq!(got, expected, "{sector} {count} {flags} {kind:?}");
        }
    }

    #[test]
    fn ids_are_cut_and_padded() {
        assert_eq!(&pad_id("disk0")[..6], b"disk0\0");
        assert_eq!(
            &pad_id("a-serial-longer-than-twenty"),
            b"a-serial-longer-than"
        );
    }
}
