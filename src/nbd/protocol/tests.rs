//! Exact bytes, as the specification lays them out, and what is refused.
#![forbid(unsafe_code)]

use super::errno::{from_errno, to_errno};
use super::export::{
    BlockSizeLimits, ExportDetail, ExportQuestion, ExportSize, ListedExport, transmission_flag,
};
use super::handshake::{Greeting, OptionHeader, OptionReplyHeader, option, option_reply};
use super::meta::{BASE_ALLOCATION, Extent, MetaContext, MetaQueries, StatusChunk, allocation};
use super::reply::{ChunkHeader, ErrorChunk, HoleChunk, ReplyHeader, SimpleReply, chunk};
use super::request::{RequestHeader, command, command_flag};
use super::{MAX_STRING, Malformed};

/// Every prefix of a message is refused.
fn refuses_prefixes<T>(message: &[u8], decode: impl Fn(&[u8]) -> Result<T, Malformed>) {
    for len in 0..message.len() {
        assert!(decode(&message[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn a_greeting() {
    let bytes = *b"NBDMAGICIHAVEOPT\x00\x03";
    let greeting = Greeting { flags: 3 };
    assert_eq!(greeting.encode(), bytes);
    assert_eq!(Greeting::decode(&bytes), Ok(greeting));
    let oldstyle = *b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53\x00\x00";
    let refusal = Malformed("server is of the oldstyle");
    assert_eq!(Greeting::decode(&oldstyle), Err(refusal));
    assert!(Greeting::decode(b"SSH-2.0-OpenSSH_9.").is_err());
}

#[test]
fn an_option() {
    let bytes = *b"IHAVEOPT\x00\x00\x00\x07\x00\x00\x00\x0a";
    let header = OptionHeader {
        option: option::GO,
        length: 10,
    };
    assert_eq!(header.encode(), bytes);
    assert_eq!(OptionHeader::decode(&bytes), Ok(header));
    assert!(OptionHeader::decode(b"IHAVEOPS\x00\x00\x00\x07\x00\x00\x00\x0a").is_err());
}

#[test]
fn a_reply_to_an_option() {
    let bytes =
        *b"\x00\x03\xe8\x89\x04\x55\x65\xa9\x00\x00\x00\x07\x80\x00\x00\x06\x00\x00\x00\x02";
    let reply = OptionReplyHeader {
        option: option::GO,
        reply: option_reply::ERR_UNKNOWN,
        length: 2,
    };
    assert_eq!(reply.encode(), bytes);
    assert_eq!(OptionReplyHeader::decode(&bytes), Ok(reply));
    assert!(option_reply::is_error(reply.reply));
    assert!(!option_reply::is_error(option_reply::ACK));
}

#[test]
fn a_question_about_an_export() {
    let bytes = b"\x00\x00\x00\x04disk\x00\x02\x00\x00\x00\x03";
    let question = ExportQuestion {
        name: "disk".into(),
        wanted: vec![0, 3],
    };
    assert_eq!(question.encode(), bytes);
    assert_eq!(ExportQuestion::decode(bytes), Ok(question));
    refuses_prefixes(bytes, ExportQuestion::decode);
    assert!(ExportQuestion::decode(b"\x00\x00\x00\x00\x00\x00\x00").is_err());
    assert!(ExportQuestion::decode(b"\xff\xff\xff\xffdisk\x00\x00").is_err());
    assert!(ExportQuestion::decode(b"\x00\x00\x00\x01\x00\x00\x00").is_err());
    assert!(ExportQuestion::decode(b"\x00\x00\x00\x01\xff\x00\x00").is_err());
}

#[test]
fn a_name_that_is_too_long() {
    let question = |len| ExportQuestion {
        name: "x".repeat(len),
        wanted: Vec::new(),
    };
    let longest = question(MAX_STRING).encode();
    assert!(ExportQuestion::decode(&longest).is_ok());
    let longer = question(MAX_STRING + 1).encode();
    let refusal = Malformed("string is too long");
    assert_eq!(ExportQuestion::decode(&longer), Err(refusal));
}

#[test]
fn details_of_an_export() {
    let size = ExportSize {
        size: 0x0102_0304_0506_0708,
        flags: transmission_flag::HAS_FLAGS | transmission_flag::CAN_MULTI_CONN,
    };
    let bytes = *b"\x01\x02\x03\x04\x05\x06\x07\x08\x01\x01";
    assert_eq!(size.encode(), bytes);
    assert_eq!(ExportSize::decode(&bytes), size);
    let limits = BlockSizeLimits {
        minimum: 1,
        preferred: 4096,
        maximum: 32 << 20,
    };
    let details: [(&[u8], _); 4] = [
        (
            b"\x00\x00\x01\x02\x03\x04\x05\x06\x07\x08\x01\x01",
            ExportDetail::Export(size),
        ),
        (b"\x00\x01disk", ExportDetail::Name("disk".into())),
        (
            b"\x00\x02of mine",
            ExportDetail::Description("of mine".into()),
        ),
        (
            b"\x00\x03\x00\x00\x00\x01\x00\x00\x10\x00\x02\x00\x00\x00",
            ExportDetail::BlockSize(limits),
        ),
    ];
    for (message, detail) in details {
        assert_eq!(detail.encode(), message);
        assert_eq!(ExportDetail::decode(message), Ok(detail));
    }
    assert_eq!(
        ExportDetail::decode(b"\x77\x00etc"),
        Ok(ExportDetail::Unknown(0x7700))
    );
    refuses_prefixes(&details_of_sizes(1, 4096, 1 << 20), ExportDetail::decode);
}

fn details_of_sizes(minimum: u32, preferred: u32, maximum: u32) -> Vec<u8> {
    ExportDetail::BlockSize(BlockSizeLimits {
        minimum,
        preferred,
        maximum,
    })
    .encode()
}

#[test]
fn block_sizes_that_cannot_be() {
    let good = [
        (1, 1, 1),
        (512, 4096, u32::MAX - 511),
        (65536, 65536, 1 << 25),
    ];
    for (minimum, preferred, maximum) in good {
        let bytes = details_of_sizes(minimum, preferred, maximum);
        assert!(ExportDetail::decode(&bytes).is_ok(), "{minimum}");
    }
    let bad = [
        (0, 4096, 1 << 20),
        (3, 4096, 3 << 20),
        (1 << 17, 1 << 17, 1 << 20),
        (512, 256, 1 << 20),
        (512, 0, 1 << 20),
        (512, 768, 1 << 20),
        (512, 512, 0),
        (512, 512, 700),
    ];
    for (minimum, preferred, maximum) in bad {
        let bytes = details_of_sizes(minimum, preferred, maximum);
        let detail = ExportDetail::decode(&bytes);
        assert!(detail.is_err(), "{minimum} {preferred} {maximum}");
    }
}

#[test]
fn a_list_of_exports() {
    let bytes = b"\x00\x00\x00\x01afirst disk";
    let export = ListedExport {
        name: "a".into(),
        description: "first disk".into(),
    };
    assert_eq!(export.encode(), bytes);
    assert_eq!(ListedExport::decode(bytes), Ok(export));
    assert!(ListedExport::decode(b"\x00\x00\x00\x05a").is_err());
}

#[test]
fn queries_for_metadata_contexts() {
    let bytes = b"\x00\x00\x00\x01d\x00\x00\x00\x01\x00\x00\x00\x0fbase:allocation";
    let queries = MetaQueries {
        export: "d".into(),
        queries: vec![BASE_ALLOCATION.into()],
    };
    assert_eq!(queries.encode(), bytes);
    assert_eq!(MetaQueries::decode(bytes), Ok(queries));
    refuses_prefixes(bytes, MetaQueries::decode);
    assert!(MetaQueries::decode(b"\x00\x00\x00\x00\xff\xff\xff\xff").is_err());
}

#[test]
fn a_metadata_context() {
    let bytes = b"\x00\x00\x00\x09base:allocation";
    let context = MetaContext {
        id: 9,
        name: BASE_ALLOCATION.into(),
    };
    assert_eq!(context.encode(), bytes);
    assert_eq!(MetaContext::decode(bytes), Ok(context));
    assert!(MetaContext::decode(b"\x00\x00\x00").is_err());
}

#[test]
fn block_status() {
    let extent = |length, flags| Extent { length, flags };
    let status = StatusChunk {
        context: 1,
        extents: vec![
            extent(0x1_0000, 0),
            extent(0x200, allocation::HOLE | allocation::ZERO),
        ],
    };
    let compact = b"\x00\x00\x00\x01\
        \x00\x01\x00\x00\x00\x00\x00\x00\
        \x00\x00\x02\x00\x00\x00\x00\x03";
    assert_eq!(status.encode(), compact);
    assert_eq!(StatusChunk::decode(compact).as_ref(), Ok(&status));
    let extended = b"\x00\x00\x00\x01\x00\x00\x00\x02\
        \x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
        \x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x03";
    assert_eq!(status.encode_extended(), extended);
    assert_eq!(StatusChunk::decode_extended(extended).as_ref(), Ok(&status));
    let mut uncounted = *extended;
    uncounted[7] = 0;
    assert_eq!(StatusChunk::decode_extended(&uncounted), Ok(status));
    let mut miscounted = *extended;
    miscounted[7] = 3;
    assert!(StatusChunk::decode_extended(&miscounted).is_err());
}

#[test]
fn block_status_that_says_nothing() {
    assert!(StatusChunk::decode(b"\x00\x00\x00\x01").is_err());
    assert!(StatusChunk::decode(b"\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00").is_err());
    assert!(StatusChunk::decode(b"\x00\x00\x00\x01\x00\x00\x00\x08\x00\x00").is_err());
    assert!(StatusChunk::decode_extended(&[0; 8]).is_err());
    assert!(StatusChunk::decode_extended(&[0; 24]).is_err());
    assert!(StatusChunk::decode_extended(&[1; 25]).is_err());
}

#[test]
fn a_request() {
    let header = RequestHeader {
        flags: command_flag::FUA,
        command: command::WRITE,
        cookie: 0x1122_3344_5566_7788,
        offset: 0x1_0000_0000,
        length: 0x1000,
    };
    let compact = *b"\x25\x60\x95\x13\x00\x01\x00\x01\
        \x11\x22\x33\x44\x55\x66\x77\x88\
        \x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x10\x00";
    assert_eq!(header.encode(), compact);
    assert_eq!(RequestHeader::decode(&compact), Ok(header));
    let extended = *b"\x21\xe4\x1c\x71\x00\x01\x00\x01\
        \x11\x22\x33\x44\x55\x66\x77\x88\
        \x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x10\x00";
    assert_eq!(header.encode_extended(), extended);
    assert_eq!(RequestHeader::decode_extended(&extended), Ok(header));
    assert!(RequestHeader::decode(extended.first_chunk().unwrap()).is_err());
    let mut mixed = extended;
    mixed[..4].copy_from_slice(&compact[..4]);
    assert!(RequestHeader::decode_extended(&mixed).is_err());
}

#[test]
fn a_reply() {
    let simple = SimpleReply {
        error: 5,
        cookie: 0x0102,
    };
    let bytes = *b"\x67\x44\x66\x98\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x01\x02";
    assert_eq!(simple.encode(), bytes);
    assert_eq!(ReplyHeader::decode(&bytes), Ok(ReplyHeader::Simple(simple)));
    refuses_prefixes(&bytes, ReplyHeader::decode);
    assert_eq!(ReplyHeader::len(*bytes.first_chunk().unwrap()), Ok(16));
    assert!(ReplyHeader::len(*b"HTTP").is_err());
    assert!(ReplyHeader::decode(b"HTTP/1.1 400 Bad Request").is_err());
}

#[test]
fn a_chunk() {
    let chunk = ChunkHeader {
        flags: 1,
        kind: chunk::OFFSET_DATA,
        cookie: 7,
        offset: 0,
        length: 0x1008,
    };
    let compact = *b"\x66\x8e\x33\xef\x00\x01\x00\x01\
        \x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x10\x08";
    assert_eq!(chunk.encode(), compact);
    let header = ReplyHeader::Structured(chunk);
    assert_eq!(ReplyHeader::decode(&compact), Ok(header));
    assert_eq!(ReplyHeader::len(*compact.first_chunk().unwrap()), Ok(20));
    refuses_prefixes(&compact, ReplyHeader::decode);
    assert!(chunk.is_last());
}

#[test]
fn a_chunk_with_an_extended_header() {
    let chunk = ChunkHeader {
        flags: 0,
        kind: chunk::OFFSET_DATA,
        cookie: 7,
        offset: 0x2_0000_0000,
        length: 0x1008,
    };
    let extended = *b"\x6e\x8a\x27\x8c\x00\x00\x00\x01\
        \x00\x00\x00\x00\x00\x00\x00\x07\
        \x00\x00\x00\x02\x00\x00\x00\x00\
        \x00\x00\x00\x00\x00\x00\x10\x08";
    assert_eq!(chunk.encode_extended(), extended);
    let header = ReplyHeader::Extended(chunk);
    assert_eq!(ReplyHeader::decode(&extended), Ok(header));
    assert_eq!(ReplyHeader::len(*extended.first_chunk().unwrap()), Ok(32));
    refuses_prefixes(&extended, ReplyHeader::decode);
    assert!(!chunk.is_last());
}

#[test]
fn a_hole() {
    let bytes = *b"\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x20\x00";
    let hole = HoleChunk {
        offset: 0x1_0000,
        length: 0x2000,
    };
    assert_eq!(hole.encode(), bytes);
    assert_eq!(HoleChunk::decode(&bytes), Ok(hole));
    refuses_prefixes(&bytes, HoleChunk::decode);
    assert!(HoleChunk::decode(&[0; 12]).is_err());
    assert!(HoleChunk::decode(&[1; 13]).is_err());
}

#[test]
fn an_error() {
    let error = ErrorChunk {
        error: 28,
        message: "full".into(),
        offset: None,
    };
    let bytes = b"\x00\x00\x00\x1c\x00\x04full";
    assert_eq!(error.encode(), bytes);
    assert_eq!(ErrorChunk::decode(chunk::ERROR, bytes).as_ref(), Ok(&error));
    assert!(ErrorChunk::decode(chunk::ERROR_OFFSET, bytes).is_err());
    refuses_prefixes(bytes, |bytes| ErrorChunk::decode(chunk::ERROR, bytes));
}

#[test]
fn an_error_at_an_offset() {
    let error = ErrorChunk {
        error: 28,
        message: "full".into(),
        offset: Some(0x200),
    };
    let bytes = b"\x00\x00\x00\x1c\x00\x04full\x00\x00\x00\x00\x00\x00\x02\x00";
    assert_eq!(error.encode(), bytes);
    let decoded = ErrorChunk::decode(chunk::ERROR_OFFSET, bytes);
    assert_eq!(decoded, Ok(error));
    assert!(ErrorChunk::decode(chunk::ERROR, bytes).is_err());
    assert!(ErrorChunk::decode((1 << 15) | 77, bytes).is_ok());
    assert!(ErrorChunk::decode(chunk::ERROR, &[0; 6]).is_err());
}

#[test]
fn error_numbers() {
    let known = [
        (libc::EPERM, 1),
        (libc::EIO, 5),
        (libc::ENOMEM, 12),
        (libc::EINVAL, 22),
        (libc::ENOSPC, 28),
        (libc::EOVERFLOW, 75),
        (libc::ENOTSUP, 95),
        (libc::ESHUTDOWN, 108),
        (0, 0),
    ];
    for (errno, error) in known {
        assert_eq!(from_errno(errno), error);
        assert_eq!(to_errno(error), errno);
    }
    assert_eq!(from_errno(libc::EROFS), 1);
    assert_eq!(from_errno(libc::EFBIG), 28);
    assert_eq!(from_errno(libc::EDQUOT), 28);
    assert_eq!(from_errno(libc::EBADF), 22);
    assert_eq!(to_errno(77), libc::EINVAL);
}
