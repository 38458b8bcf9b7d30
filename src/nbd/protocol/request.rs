//! Requests of the transmission phase.
#![forbid(unsafe_code)]

use super::Malformed;
use super::wire::{HeaderBytes, MessageFields};

/// Before a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Before a request with an extended header.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;

/// What a request asks for.
pub mod command {
    /// Read.
    pub const READ: u16 = 0;
    /// Write; the data follows.
    pub const WRITE: u16 = 1;
    /// End the session; has no reply.
    pub const DISC: u16 = 2;
    /// Make what was written durable.
    pub const FLUSH: u16 = 3;
    /// Give storage back.
    pub const TRIM: u16 = 4;
    /// Read ahead.
    pub const CACHE: u16 = 5;
    /// Write zeroes.
    pub const WRITE_ZEROES: u16 = 6;
    /// Say where data is.
    pub const BLOCK_STATUS: u16 = 7;
    /// Change the size.
    pub const RESIZE: u16 = 8;
}

/// Flags of a request.
pub mod command_flag {
    /// The data is durable before the reply.
    pub const FUA: u16 = 1 << 0;
    /// Zeroes take storage.
    pub const NO_HOLE: u16 = 1 << 1;
    /// The data comes in one chunk.
    pub const DF: u16 = 1 << 2;
    /// One extent is enough.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Zeroes that would be slow are refused.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// The length of an extended header is that of a payload.
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// What stands before a request's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// See [`command_flag`].
    pub flags: u16,
    /// See [`command`].
    pub command: u16,
    /// The number that replies repeat.
    pub cookie: u64,
    /// In bytes.
    pub offset: u64,
    /// In bytes; at most 32 bits without an extended header.
    pub length: u64,
}

impl RequestHeader {
    /// The size of a compact header.
    pub const LEN: usize = 28;
    /// The size of an extended header.
    pub const EXTENDED_LEN: usize = 32;

    /// The compact header. The caller has made sure that the length has 32 bits.
    pub fn encode(&self) -> [u8; RequestHeader::LEN] {
        let header = HeaderBytes::new().u32(REQUEST_MAGIC);
        let header = header.u16(self.flags).u16(self.command);
        let header = header.u64(self.cookie).u64(self.offset);
        let length = u32::try_from(self.length).unwrap_or(u32::MAX);
        header.u32(length).done()
    }

    /// The extended header.
    pub fn encode_extended(&self) -> [u8; RequestHeader::EXTENDED_LEN] {
        let header = HeaderBytes::new().u32(EXTENDED_REQUEST_MAGIC);
        let header = header.u16(self.flags).u16(self.command);
        let header = header.u64(self.cookie).u64(self.offset);
        header.u64(self.length).done()
    }

    /// Reads a compact header.
    ///
    /// # Errors
    /// It is no request.
    pub fn decode(bytes: &[u8; RequestHeader::LEN]) -> Result<RequestHeader, Malformed> {
        let mut fields = MessageFields::of(bytes);
        fields.magic(REQUEST_MAGIC, "request has a wrong magic number")?;
        Ok(RequestHeader {
            flags: fields.u16()?,
            command: fields.u16()?,
            cookie: fields.u64()?,
            offset: fields.u64()?,
            length: fields.u32()?.into(),
        })
    }

    /// Reads an extended header.
    ///
    /// # Errors
    /// It is no request with such a header.
    pub fn decode_extended(
        bytes: &[u8; RequestHeader::EXTENDED_LEN],
    ) -> Result<RequestHeader, Malformed> {
        let mut fields = MessageFields::of(bytes);
        fields.magic(EXTENDED_REQUEST_MAGIC, "request has a wrong magic number")?;
        Ok(RequestHeader {
            flags: fields.u16()?,
            command: fields.u16()?,
            cookie: fields.u64()?,
            offset: fields.u64()?,
            length: fields.u64()?,
        })
    }
}
