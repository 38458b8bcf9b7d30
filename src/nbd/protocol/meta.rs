//! Metadata contexts: which there are, and what the extents of a block status mean.
#![forbid(unsafe_code)]

use super::Malformed;
use super::wire::{MessageFields, put_long_string};

/// The context that says where data is.
pub const BASE_ALLOCATION: &str = "base:allocation";

/// Flags of an extent in `base:allocation`.
pub mod allocation {
    /// No storage is taken.
    pub const HOLE: u64 = 1 << 0;
    /// It reads as zeroes.
    pub const ZERO: u64 = 1 << 1;
}

/// Queries for contexts: the data of `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaQueries {
    /// Of which export.
    pub export: String,
    /// Names, or what a server makes names of.
    pub queries: Vec<String>,
}

impl MetaQueries {
    /// The bytes of them.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_long_string(&mut out, &self.export);
        let count = u32::try_from(self.queries.len()).unwrap_or(u32::MAX);
        out.extend(count.to_be_bytes());
        for query in &self.queries {
            put_long_string(&mut out, query);
        }
        out
    }

    /// Reads them.
    ///
    /// # Errors
    /// The parts are not as long or as many as the data says.
    pub fn decode(data: &[u8]) -> Result<MetaQueries, Malformed> {
        let mut fields = MessageFields::of(data);
        let export = fields.long_string()?;
        let count = fields.u32()?;
        let mut queries = Vec::new();
        for _ in 0..count {
            queries.push(fields.long_string()?);
        }
        fields.end()?;
        Ok(MetaQueries { export, queries })
    }
}

/// A context: the data of a reply of the type `META_CONTEXT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaContext {
    /// The number that block status replies use.
    pub id: u32,
    /// Its name.
    pub name: String,
}

impl MetaContext {
    /// The bytes of it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::from(self.id.to_be_bytes());
        out.extend(self.name.as_bytes());
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is too short, or the name is not text.
    pub fn decode(data: &[u8]) -> Result<MetaContext, Malformed> {
        let mut fields = MessageFields::of(data);
        let id = fields.u32()?;
        let name = fields.rest();
        let name = MessageFields::of(name).string(name.len())?;
        Ok(MetaContext { id, name })
    }
}

/// A part of the range that a block status is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// In bytes, not 0.
    pub length: u64,
    /// The context says what they mean; see [`allocation`].
    pub flags: u64,
}

/// The extents of one context: the payload of a block status chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusChunk {
    /// The number of the context.
    pub context: u32,
    /// From the offset of the request on, without gaps.
    pub extents: Vec<Extent>,
}

impl StatusChunk {
    /// The payload of the type `BLOCK_STATUS`. Lengths and flags that do not fit into 32 bits are cut off.
    #[allow(clippy::cast_possible_truncation)] // the caller limits lengths, and no context of 32 bits has other flags
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::from(self.context.to_be_bytes());
        for extent in &self.extents {
            let length = u32::try_from(extent.length).unwrap_or(u32::MAX);
            out.extend(length.to_be_bytes());
            out.extend((extent.flags as u32).to_be_bytes());
        }
        out
    }

    /// The payload of the type `BLOCK_STATUS_EXT`.
    pub fn encode_extended(&self) -> Vec<u8> {
        let mut out = Vec::from(self.context.to_be_bytes());
        let count = u32::try_from(self.extents.len()).unwrap_or(u32::MAX);
        out.extend(count.to_be_bytes());
        for extent in &self.extents {
            out.extend(extent.length.to_be_bytes());
            out.extend(extent.flags.to_be_bytes());
        }
        out
    }

    /// Reads the payload of the type `BLOCK_STATUS`.
    ///
    /// # Errors
    /// It has no extents, half ones, or empty ones.
    pub fn decode(payload: &[u8]) -> Result<StatusChunk, Malformed> {
        let mut fields = MessageFields::of(payload);
        let context = fields.u32()?;
        let mut extents = Vec::new();
        while !fields.is_empty() {
            let length = fields.u32()?.into();
            let flags = fields.u32()?.into();
            extents.push(Extent { length, flags });
        }
        StatusChunk { context, extents }.check()
    }

    /// Reads the payload of the type `BLOCK_STATUS_EXT`.
    ///
    /// # Errors
    /// It has no extents, half ones, empty ones, or not as many as it says.
    pub fn decode_extended(payload: &[u8]) -> Result<StatusChunk, Malformed> {
        let mut fields = MessageFields::of(payload);
        let context = fields.u32()?;
        let count = fields.u32()?;
        let mut extents = Vec::new();
        while !fields.is_empty() {
            let length = fields.u64()?;
            let flags = fields.u64()?;
            extents.push(Extent { length, flags });
        }
        // 0 leaves it to the length of the payload.
        if count != 0 && usize::try_from(count) != Ok(extents.len()) {
            return Err(Malformed("block status has a wrong number of extents"));
        }
        StatusChunk { context, extents }.check()
    }

    fn check(self) -> Result<StatusChunk, Malformed> {
        if self.extents.is_empty() {
            return Err(Malformed("block status has no extents"));
        }
        if self.extents.iter().any(|extent| extent.length == 0) {
            return Err(Malformed("block status has an empty extent"));
        }
        Ok(self)
    }
}
