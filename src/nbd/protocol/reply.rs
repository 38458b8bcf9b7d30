//! Replies of the transmission phase: simple ones, and chunks of structured ones.
//!
//! A client knows by the first four bytes what follows, and [`ReplyHeader::len`] says how many bytes the header has.
#![forbid(unsafe_code)]

use super::Malformed;
use super::wire::{HeaderBytes, MessageFields};

/// Before a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Before a chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Before a chunk with an extended header.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Flags of a chunk.
pub mod chunk_flag {
    /// The reply ends with this chunk.
    pub const DONE: u16 = 1 << 0;
}

/// Types of chunks.
pub mod chunk {
    /// Nothing.
    pub const NONE: u16 = 0;
    /// An offset and data.
    pub const OFFSET_DATA: u16 = 1;
    /// An offset and a length that reads as zeroes.
    pub const OFFSET_HOLE: u16 = 2;
    /// Extents with lengths of 32 bits.
    pub const BLOCK_STATUS: u16 = 5;
    /// Extents with lengths of 64 bits.
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// An error.
    pub const ERROR: u16 = (1 << 15) | 1;
    /// An error at an offset.
    pub const ERROR_OFFSET: u16 = (1 << 15) | 2;

    /// Whether a chunk of this type is an error.
    pub fn is_error(kind: u16) -> bool {
        kind & (1 << 15) != 0
    }
}

/// A simple reply, without the data of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimpleReply {
    /// 0, or an error of the protocol.
    pub error: u32,
    /// The number of the request.
    pub cookie: u64,
}

/// What stands before a chunk's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// See [`chunk_flag`].
    pub flags: u16,
    /// See [`chunk`].
    pub kind: u16,
    /// The number of the request.
    pub cookie: u64,
    /// The request's offset; only in an extended header.
    pub offset: u64,
    /// How many bytes of payload follow; at most 32 bits without an extended header.
    pub length: u64,
}

impl SimpleReply {
    /// Its size.
    pub const LEN: usize = 16;

    /// The bytes of it.
    pub fn encode(self) -> [u8; SimpleReply::LEN] {
        let header = HeaderBytes::new().u32(SIMPLE_REPLY_MAGIC);
        header.u32(self.error).u64(self.cookie).done()
    }
}

impl ChunkHeader {
    /// The size of a compact header.
    pub const LEN: usize = 20;
    /// The size of an extended header.
    pub const EXTENDED_LEN: usize = 32;

    /// The compact header. The caller has made sure that the length has 32 bits.
    pub fn encode(&self) -> [u8; ChunkHeader::LEN] {
        let header = HeaderBytes::new().u32(STRUCTURED_REPLY_MAGIC);
        let header = header.u16(self.flags).u16(self.kind).u64(self.cookie);
        let length = u32::try_from(self.length).unwrap_or(u32::MAX);
        header.u32(length).done()
    }

    /// The extended header.
    pub fn encode_extended(&self) -> [u8; ChunkHeader::EXTENDED_LEN] {
        let header = HeaderBytes::new().u32(EXTENDED_REPLY_MAGIC);
        let header = header.u16(self.flags).u16(self.kind).u64(self.cookie);
        header.u64(self.offset).u64(self.length).done()
    }

    /// Whether the reply ends with this chunk.
    pub fn is_last(&self) -> bool {
        self.flags & chunk_flag::DONE != 0
    }
}

/// A reply of either kind, as far as its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyHeader {
    /// A simple reply.
    Simple(SimpleReply),
    /// A chunk with a compact header.
    Structured(ChunkHeader),
    /// A chunk with an extended header.
    Extended(ChunkHeader),
}

impl ReplyHeader {
    /// How long the header is that begins with `magic`.
    ///
    /// # Errors
    /// No reply begins like that.
    pub fn len(magic: [u8; 4]) -> Result<usize, Malformed> {
        match u32::from_be_bytes(magic) {
            SIMPLE_REPLY_MAGIC => Ok(SimpleReply::LEN),
            STRUCTURED_REPLY_MAGIC => Ok(ChunkHeader::LEN),
            EXTENDED_REPLY_MAGIC => Ok(ChunkHeader::EXTENDED_LEN),
            _ => Err(Malformed("reply has a wrong magic number")),
        }
    }

    /// Reads a header; bytes after it are not looked at.
    ///
    /// # Errors
    /// It is no reply, or shorter than [`ReplyHeader::len`] says.
    pub fn decode(bytes: &[u8]) -> Result<ReplyHeader, Malformed> {
        let mut fields = MessageFields::of(bytes);
        match fields.u32()? {
            SIMPLE_REPLY_MAGIC => Ok(ReplyHeader::Simple(SimpleReply {
                error: fields.u32()?,
                cookie: fields.u64()?,
            })),
            STRUCTURED_REPLY_MAGIC => Ok(ReplyHeader::Structured(ChunkHeader {
                flags: fields.u16()?,
                kind: fields.u16()?,
                cookie: fields.u64()?,
                offset: 0,
                length: fields.u32()?.into(),
            })),
            EXTENDED_REPLY_MAGIC => Ok(ReplyHeader::Extended(ChunkHeader {
                flags: fields.u16()?,
                kind: fields.u16()?,
                cookie: fields.u64()?,
                offset: fields.u64()?,
                length: fields.u64()?,
            })),
            _ => Err(Malformed("reply has a wrong magic number")),
        }
    }
}

/// A range that reads as zeroes: the payload of the type `OFFSET_HOLE`. The payload of the type `OFFSET_DATA` has an offset of
/// 64 bits and the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoleChunk {
    /// In bytes.
    pub offset: u64,
    /// In bytes.
    pub length: u32,
}

impl HoleChunk {
    /// Its size.
    pub const LEN: usize = 12;

    /// The bytes of it.
    pub fn encode(self) -> [u8; HoleChunk::LEN] {
        HeaderBytes::new().u64(self.offset).u32(self.length).done()
    }

    /// Reads it.
    ///
    /// # Errors
    /// It has a wrong length, or is empty.
    pub fn decode(payload: &[u8]) -> Result<HoleChunk, Malformed> {
        let mut fields = MessageFields::of(payload);
        let offset = fields.u64()?;
        let length = fields.u32()?;
        fields.end()?;
        if length == 0 {
            return Err(Malformed("hole is empty"));
        }
        Ok(HoleChunk { offset, length })
    }
}

/// An error: the payload of the types `ERROR` and `ERROR_OFFSET`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorChunk {
    /// An error of the protocol, not 0.
    pub error: u32,
    /// A text for people.
    pub message: String,
    /// Where it happened; makes it the type `ERROR_OFFSET`.
    pub offset: Option<u64>,
}

impl ErrorChunk {
    /// The bytes of it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::from(self.error.to_be_bytes());
        let len = u16::try_from(self.message.len()).unwrap_or(u16::MAX);
        out.extend(len.to_be_bytes());
        out.extend(self.message.as_bytes());
        out.extend(self.offset.into_iter().flat_map(u64::to_be_bytes));
        out
    }

    /// Reads the payload of a chunk of the type `kind`, which is an error. What errors that the specification does not name
    /// have after the message is ignored.
    ///
    /// # Errors
    /// It is shorter than it says, or no error.
    pub fn decode(kind: u16, payload: &[u8]) -> Result<ErrorChunk, Malformed> {
        let mut fields = MessageFields::of(payload);
        let error = fields.u32()?;
        let len = fields.u16()?;
        let message = fields.string(len.into())?;
        let is_at_offset = kind == chunk::ERROR_OFFSET;
        let offset = is_at_offset.then(|| fields.u64()).transpose()?;
        if matches!(kind, chunk::ERROR | chunk::ERROR_OFFSET) {
            fields.end()?;
        }
        if error == 0 {
            return Err(Malformed("error chunk has no error"));
        }
        Ok(ErrorChunk {
            error,
            message,
            offset,
        })
    }
}
