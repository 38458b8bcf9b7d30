//! The kernel's messages: requests, as they come from `/dev/fuse`, and the answers to them.
//!
//! The structures are the kernel's (`fuse-abi`). What is here knows nothing of files.
//!
//! # Invariants
//! 1. No message is trusted: whatever its bytes are, it is decoded or refused.
#![forbid(unsafe_code)]

use std::mem::size_of;

use fuse_abi::linux::{
    FUSE_KERNEL_VERSION, fuse_fallocate_in, fuse_in_header, fuse_init_in, fuse_lseek_in,
    fuse_opcode, fuse_out_header, fuse_read_in, fuse_setattr_in, fuse_write_in,
};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// The bytes before the data of a write. Each message is read in two parts, so that this data is aligned.
pub(super) const HEAD_LEN: usize = size_of::<fuse_in_header>() + size_of::<fuse_write_in>();
/// The longest request that is understood, but for the data of a write.
const LONGEST: usize = size_of::<fuse_in_header>() + size_of::<fuse_setattr_in>();

/// The most bytes of one read or write.
pub(super) const TRANSFER_MAX: usize = 1 << 20;
/// The most requests that run at once.
pub(super) const IN_FLIGHT_MAX: u16 = 64;
/// The oldest minor version of the protocol that is spoken: Linux 3.15.
pub(super) const OLDEST_MINOR: u32 = 23;

/// What the kernel asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FuseOp {
    Init(fuse_init_in),
    Lookup,
    Getattr,
    Setattr(fuse_setattr_in),
    Open,
    Read {
        offset: u64,
        size: u32,
    },
    /// The data is in the second part of the message.
    Write {
        offset: u64,
        size: u32,
    },
    Statfs,
    Release,
    /// `fsync`, or a `close` that may return the errors of earlier writes.
    Flush,
    Fallocate(fuse_fallocate_in),
    Lseek {
        offset: u64,
        whence: u32,
    },
    Destroy,
    /// It has no answer.
    Forget,
    Unknown(u32),
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FuseRequest {
    /// The number that its answer carries.
    pub(super) unique: u64,
    /// The thread that asks.
    pub(super) thread: u32,
    pub(super) op: FuseOp,
}

/// A message that is not what it says. `None` if even the number is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Garbled(pub(super) Option<u64>);

/// Decodes a message of `len` bytes, which are in `head` and then in `rest`.
pub(super) fn decode(
    head: &[u8; HEAD_LEN],
    rest: &[u8],
    len: usize,
) -> Result<FuseRequest, Garbled> {
    let mut bytes = [0; LONGEST];
    let copied = rest.len().min(LONGEST - HEAD_LEN);
    bytes[..HEAD_LEN].copy_from_slice(head);
    bytes[HEAD_LEN..HEAD_LEN + copied].copy_from_slice(&rest[..copied]);
    let known = &bytes[..len.min(HEAD_LEN + copied)];
    let (header, body) = fuse_in_header::read_from_prefix(known).map_err(|_| Garbled(None))?;
    let malformed = Garbled(Some(header.unique));
    if usize::try_from(header.len) != Ok(len) {
        return Err(malformed);
    }
    let op = op(header.opcode, body).ok_or(malformed)?;
    if let FuseOp::Write { size, .. } = op
        && usize::try_from(size) != Ok(len - HEAD_LEN)
    {
        return Err(malformed);
    }
    Ok(FuseRequest {
        unique: header.unique,
        thread: header.pid,
        op,
    })
}

/// `None` if the body is too short.
fn op(opcode: u32, body: &[u8]) -> Option<FuseOp> {
    let is = |one: fuse_opcode| opcode == one as u32;
    Some(match opcode {
        _ if is(fuse_opcode::FUSE_INIT) => FuseOp::Init(init(body)?),
        _ if is(fuse_opcode::FUSE_LOOKUP) => FuseOp::Lookup,
        _ if is(fuse_opcode::FUSE_GETATTR) => FuseOp::Getattr,
        _ if is(fuse_opcode::FUSE_SETATTR) => FuseOp::Setattr(read(body)?),
        _ if is(fuse_opcode::FUSE_OPEN) => FuseOp::Open,
        _ if is(fuse_opcode::FUSE_READ) => {
            let fuse_read_in { offset, size, .. } = read(body)?;
            FuseOp::Read { offset, size }
        }
        _ if is(fuse_opcode::FUSE_WRITE) => {
            let fuse_write_in { offset, size, .. } = read(body)?;
            FuseOp::Write { offset, size }
        }
        _ if is(fuse_opcode::FUSE_STATFS) => FuseOp::Statfs,
        _ if is(fuse_opcode::FUSE_RELEASE) => FuseOp::Release,
        _ if is(fuse_opcode::FUSE_FSYNC) || is(fuse_opcode::FUSE_FLUSH) => FuseOp::Flush,
        _ if is(fuse_opcode::FUSE_FALLOCATE) => FuseOp::Fallocate(read(body)?),
        _ if is(fuse_opcode::FUSE_LSEEK) => {
            let fuse_lseek_in { offset, whence, .. } = read(body)?;
            FuseOp::Lseek { offset, whence }
        }
        _ if is(fuse_opcode::FUSE_DESTROY) => FuseOp::Destroy,
        _ if is(fuse_opcode::FUSE_FORGET) || is(fuse_opcode::FUSE_BATCH_FORGET) => FuseOp::Forget,
        _ => FuseOp::Unknown(opcode),
    })
}

fn read<T: FromBytes>(body: &[u8]) -> Option<T> {
    T::read_from_prefix(body).ok().map(|(value, _)| value)
}

/// Older kernels send fewer fields.
fn init(body: &[u8]) -> Option<fuse_init_in> {
    const FIRST_FIELDS: usize = 16;
    let mut init = fuse_init_in::new_zeroed();
    let count = body.len().min(size_of::<fuse_init_in>());
    init.as_mut_bytes()[..count].copy_from_slice(&body[..count]);
    let is_spoken = init.major > FUSE_KERNEL_VERSION || body.len() >= FIRST_FIELDS;
    (is_spoken && count >= 8).then_some(init)
}

/// An answer, without the data that follows it.
#[derive(Debug)]
pub(super) struct FuseReply {
    header: fuse_out_header,
    body: Vec<u8>,
}

impl FuseReply {
    /// Success, with what the operation returns.
    pub(super) fn of<T: IntoBytes + Immutable>(unique: u64, body: &T) -> FuseReply {
        FuseReply::new(unique, 0, body.as_bytes().to_vec())
    }

    /// Success, or a positive errno.
    pub(super) fn status(unique: u64, errno: i32) -> FuseReply {
        FuseReply::new(unique, -errno, Vec::new())
    }

    /// Success, with data only.
    pub(super) fn success(unique: u64) -> FuseReply {
        FuseReply::status(unique, 0)
    }

    /// The number of its request.
    pub(super) fn unique(&self) -> u64 {
        self.header.unique
    }

    fn new(unique: u64, error: i32, body: Vec<u8>) -> FuseReply {
        let header = fuse_out_header {
            len: 0,
            error,
            unique,
        };
        FuseReply { header, body }
    }

    /// The bytes to write, before `data`.
    pub(super) fn encode(mut self, data: &[u8]) -> Vec<u8> {
        let len = size_of::<fuse_out_header>() + self.body.len() + data.len();
        self.header.len = u32::try_from(len).unwrap_or(u32::MAX);
        let mut bytes = self.header.as_bytes().to_vec();
        bytes.append(&mut self.body);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message with this body, as the kernel sends it.
    fn message(opcode: fuse_opcode, body: &[u8]) -> Vec<u8> {
        let len = size_of::<fuse_in_header>() + body.len();
        let header = fuse_in_header {
            len: u32::try_from(len).unwrap(),
            opcode: opcode as u32,
            unique: 7,
            pid: 70,
            ..fuse_in_header::default()
        };
        [header.as_bytes(), body].concat()
    }

    /// Decodes a message whose bytes lie in memory as after reading it, behind those of an earlier message.
    fn decoded(message: &[u8]) -> Result<FuseRequest, Garbled> {
        let mut head = [0xff; HEAD_LEN];
        let mut rest = vec![0xff; 4096];
        let (first, second) = message.split_at(message.len().min(HEAD_LEN));
        head[..first.len()].copy_from_slice(first);
        rest[..second.len()].copy_from_slice(second);
        decode(&head, &rest, message.len())
    }

    fn request(op: FuseOp) -> FuseRequest {
        FuseRequest {
            unique: 7,
            thread: 70,
            op,
        }
    }

    fn write(size: u32, data: &[u8]) -> Vec<u8> {
        let write = fuse_write_in {
            offset: 512,
            size,
            ..fuse_write_in::default()
        };
        message(fuse_opcode::FUSE_WRITE, &[write.as_bytes(), data].concat())
    }

    #[test]
    fn a_write_has_the_data_that_it_says() {
        let op = FuseOp::Write {
            offset: 512,
            size: 3,
        };
        assert_eq!(decoded(&write(3, b"abc")), Ok(request(op)));
        for size in [0, 2, 4, u32::MAX] {
            assert_eq!(
                decoded(&write(size, b"abc")),
                Err(Garbled(Some(7))),
                "{size}"
            );
        }
    }

    #[test]
    fn a_message_of_another_length_than_it_says_is_refused() {
        let whole = message(
            fuse_opcode::FUSE_SETATTR,
            fuse_setattr_in::default().as_bytes(),
        );
        assert_eq!(decoded(&whole).map(|request| request.unique), Ok(7));
        for len in 0..whole.len() {
            let number = (len >= size_of::<fuse_in_header>()).then_some(7);
            assert_eq!(decoded(&whole[..len]), Err(Garbled(number)), "{len}");
        }
        let longer = [whole.as_slice(), &[0]].concat();
        assert_eq!(decoded(&longer), Err(Garbled(Some(7))));
    }

    #[test]
    fn a_body_that_is_too_short_is_refused_and_no_earlier_message_is_seen() {
        let needs_body = [
            fuse_opcode::FUSE_INIT,
            fuse_opcode::FUSE_SETATTR,
            fuse_opcode::FUSE_READ,
            fuse_opcode::FUSE_WRITE,
            fuse_opcode::FUSE_FALLOCATE,
            fuse_opcode::FUSE_LSEEK,
        ];
        for opcode in needs_body {
            let short = message(opcode, &[0; 7]);
            assert_eq!(decoded(&short), Err(Garbled(Some(7))), "{opcode:?}");
        }
    }

    #[test]
    fn what_is_not_known_is_named_by_its_number() {
        for (opcode, op) in [
            (fuse_opcode::FUSE_READDIR, FuseOp::Unknown(28)),
            (fuse_opcode::FUSE_INTERRUPT, FuseOp::Unknown(36)),
            (fuse_opcode::FUSE_BATCH_FORGET, FuseOp::Forget),
            (fuse_opcode::FUSE_FSYNC, FuseOp::Flush),
        ] {
            assert_eq!(decoded(&message(opcode, &[0; 64])), Ok(request(op)));
        }
    }

    #[test]
    fn an_older_kernel_sends_a_shorter_greeting() {
        let init = fuse_init_in {
            major: 7,
            minor: 31,
            ..fuse_init_in::default()
        };
        let body = &init.as_bytes()[..16];
        let op = FuseOp::Init(init);
        assert_eq!(
            decoded(&message(fuse_opcode::FUSE_INIT, body)),
            Ok(request(op))
        );
    }

    #[test]
    fn an_answer_counts_its_data() {
        let bytes = FuseReply::of(9, &0x0102_0304_u32).encode(&[1; 100]);
        let (header, body) = fuse_out_header::read_from_prefix(&bytes).unwrap();
        assert_eq!((header.len, header.error, header.unique), (120, 0, 9));
        assert_eq!(body, 0x0102_0304_u32.as_bytes());
        let failed = FuseReply::status(9, libc::EIO).encode(&[]);
        let failed = fuse_out_header::read_from_bytes(&failed).unwrap();
        assert_eq!((failed.len, failed.error), (16, -libc::EIO));
    }
}
