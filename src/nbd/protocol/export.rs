//! What a server says of an export, and how a client asks.
#![forbid(unsafe_code)]

use super::Malformed;
use super::wire::{HeaderBytes, MessageFields, put_long_string};

/// Flags of an export.
pub mod transmission_flag {
    /// There are flags at all.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// Nothing can be written.
    pub const READ_ONLY: u16 = 1 << 1;
    /// The server takes flushes.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// The server takes requests with the flag FUA.
    pub const SEND_FUA: u16 = 1 << 3;
    /// The disk turns.
    pub const ROTATIONAL: u16 = 1 << 4;
    /// The server takes trims.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// The server takes writes of zeroes.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// The server can read into one chunk.
    pub const SEND_DF: u16 = 1 << 7;
    /// Several connections see the same data, and a flush of one is a flush of all.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// The server takes requests to resize.
    pub const SEND_RESIZE: u16 = 1 << 9;
    /// The server takes requests to read ahead.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// The server can refuse zeroes that would be slow.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
    /// The server takes block status requests with a payload.
    pub const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
}

/// Kinds of information on an export.
pub mod info {
    /// Size and flags.
    pub const EXPORT: u16 = 0;
    /// The name by which the server knows it.
    pub const NAME: u16 = 1;
    /// A text for people.
    pub const DESCRIPTION: u16 = 2;
    /// Sizes of blocks.
    pub const BLOCK_SIZE: u16 = 3;
}

/// An export's size and flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportSize {
    /// In bytes.
    pub size: u64,
    /// See [`transmission_flag`].
    pub flags: u16,
}

impl ExportSize {
    /// The size of a reply to `EXPORT_NAME` without the zeroes.
    pub const LEN: usize = 10;
    /// How many zeroes follow if they are not left out.
    pub const ZEROES: usize = 124;

    /// The reply to `EXPORT_NAME`, without the zeroes.
    pub fn encode(self) -> [u8; ExportSize::LEN] {
        HeaderBytes::new().u64(self.size).u16(self.flags).done()
    }

    /// Reads the reply to `EXPORT_NAME`.
    pub fn decode(bytes: &[u8; ExportSize::LEN]) -> ExportSize {
        let [size @ .., first, second] = *bytes;
        ExportSize {
            size: u64::from_be_bytes(size),
            flags: u16::from_be_bytes([first, second]),
        }
    }
}

/// The sizes of requests that an export takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizeLimits {
    /// The unit of offsets and lengths.
    pub minimum: u32,
    /// The unit with which it is fast.
    pub preferred: u32,
    /// The largest payload.
    pub maximum: u32,
}

impl BlockSizeLimits {
    fn check(self) -> Result<BlockSizeLimits, Malformed> {
        if !self.minimum.is_power_of_two() || self.minimum > 64 << 10 {
            return Err(Malformed(
                "minimum block size is not a power of two up to 64 KiB",
            ));
        }
        if !self.preferred.is_power_of_two() || self.preferred < self.minimum {
            return Err(Malformed(
                "preferred block size is not a power of two from the minimum on",
            ));
        }
        if self.maximum < self.minimum || !self.maximum.is_multiple_of(self.minimum) {
            return Err(Malformed(
                "maximum block size is not a multiple of the minimum",
            ));
        }
        Ok(self)
    }
}

/// Information on an export: the data of a reply of the type `INFO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportDetail {
    /// Size and flags.
    Export(ExportSize),
    /// The name by which the server knows it.
    Name(String),
    /// A text for people.
    Description(String),
    /// Sizes of blocks.
    BlockSize(BlockSizeLimits),
    /// Something else.
    Unknown(u16),
}

impl ExportDetail {
    /// The bytes of it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            ExportDetail::Export(export) => {
                out.extend(info::EXPORT.to_be_bytes());
                out.extend(export.encode());
            }
            ExportDetail::Name(name) => put_text(&mut out, info::NAME, name),
            ExportDetail::Description(text) => put_text(&mut out, info::DESCRIPTION, text),
            ExportDetail::BlockSize(sizes) => {
                out.extend(info::BLOCK_SIZE.to_be_bytes());
                let sizes = [sizes.minimum, sizes.preferred, sizes.maximum];
                out.extend(sizes.into_iter().flat_map(u32::to_be_bytes));
            }
            ExportDetail::Unknown(kind) => out.extend(kind.to_be_bytes()),
        }
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// It has a wrong length, or says what cannot be.
    pub fn decode(data: &[u8]) -> Result<ExportDetail, Malformed> {
        let mut fields = MessageFields::of(data);
        let kind = fields.u16()?;
        let detail = match kind {
            info::EXPORT => ExportDetail::Export(ExportSize {
                size: fields.u64()?,
                flags: fields.u16()?,
            }),
            info::NAME => return take_text(fields).map(ExportDetail::Name),
            info::DESCRIPTION => return take_text(fields).map(ExportDetail::Description),
            info::BLOCK_SIZE => {
                let minimum = fields.u32()?;
                let preferred = fields.u32()?;
                let maximum = fields.u32()?;
                let sizes = BlockSizeLimits {
                    minimum,
                    preferred,
                    maximum,
                };
                ExportDetail::BlockSize(sizes.check()?)
            }
            _ => return Ok(ExportDetail::Unknown(kind)),
        };
        fields.end()?;
        Ok(detail)
    }
}

fn put_text(out: &mut Vec<u8>, kind: u16, text: &str) {
    out.extend(kind.to_be_bytes());
    out.extend(text.as_bytes());
}

fn take_text(fields: MessageFields<'_>) -> Result<String, Malformed> {
    let rest = fields.rest();
    MessageFields::of(rest).string(rest.len())
}

/// A question about an export: the data of the options `INFO` and `GO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportQuestion {
    /// Which export; the empty name is the default export.
    pub name: String,
    /// What the client wants to know; see [`info`].
    pub wanted: Vec<u16>,
}

impl ExportQuestion {
    /// The bytes of it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_long_string(&mut out, &self.name);
        let count = u16::try_from(self.wanted.len()).unwrap_or(u16::MAX);
        out.extend(count.to_be_bytes());
        out.extend(self.wanted.iter().flat_map(|kind| kind.to_be_bytes()));
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// Its parts are not as long as it says.
    pub fn decode(data: &[u8]) -> Result<ExportQuestion, Malformed> {
        let mut fields = MessageFields::of(data);
        let name = fields.long_string()?;
        let count = fields.u16()?;
        let wanted = (0..count).map(|_| fields.u16()).collect::<Result<_, _>>()?;
        fields.end()?;
        Ok(ExportQuestion { name, wanted })
    }
}

/// An export in the list of a server: the data of a reply of the type `SERVER`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedExport {
    /// Its name.
    pub name: String,
    /// A text for people.
    pub description: String,
}

impl ListedExport {
    /// The bytes of it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_long_string(&mut out, &self.name);
        out.extend(self.description.as_bytes());
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is shorter than it says, or not text.
    pub fn decode(data: &[u8]) -> Result<ListedExport, Malformed> {
        let mut fields = MessageFields::of(data);
        let name = fields.long_string()?;
        let description = take_text(fields)?;
        Ok(ListedExport { name, description })
    }
}
