//! Fields of messages: big-endian numbers, strings, and what is left of a payload.
#![forbid(unsafe_code)]

use super::{MAX_STRING, Malformed};

/// Takes the fields of a message one after the other.
#[derive(Debug)]
pub(super) struct MessageFields<'a> {
    rest: &'a [u8],
}

const SHORT: Malformed = Malformed("message is too short");

impl<'a> MessageFields<'a> {
    pub(super) fn of(message: &'a [u8]) -> MessageFields<'a> {
        MessageFields { rest: message }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(SHORT)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// A number that stands for the message itself.
    pub(super) fn magic(&mut self, wanted: u32, wrong: &'static str) -> Result<(), Malformed> {
        let is_right = self.u32()? == wanted;
        is_right.then_some(()).ok_or(Malformed(wrong))
    }

    pub(super) fn wide_magic(&mut self, wanted: u64, wrong: &'static str) -> Result<(), Malformed> {
        let is_right = self.u64()? == wanted;
        is_right.then_some(()).ok_or(Malformed(wrong))
    }

    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(SHORT)?;
        self.rest = rest;
        Ok(head)
    }

    /// A string of `len` bytes.
    pub(super) fn string(&mut self, len: usize) -> Result<String, Malformed> {
        if len > MAX_STRING {
            return Err(Malformed("string is too long"));
        }
        let bytes = self.bytes(len)?;
        let text = str::from_utf8(bytes).map_err(|_| Malformed("string is not UTF-8"))?;
        if text.contains('\0') {
            return Err(Malformed("string contains a NUL"));
        }
        Ok(text.to_owned())
    }

    /// A string whose length stands before it in 32 bits.
    pub(super) fn long_string(&mut self) -> Result<String, Malformed> {
        let len = self.u32()?;
        self.string(usize::try_from(len).unwrap_or(usize::MAX))
    }

    /// Everything that is left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Checks that nothing is left.
    pub(super) fn end(self) -> Result<(), Malformed> {
        let is_over = self.rest.is_empty();
        is_over
            .then_some(())
            .ok_or(Malformed("message is too long"))
    }
}

/// Appends a string with its length in 32 bits before it.
pub(super) fn put_long_string(out: &mut Vec<u8>, text: &str) {
    let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
    out.extend(len.to_be_bytes());
    out.extend(text.as_bytes());
}

/// Puts the fields of a header together.
pub(super) struct HeaderBytes<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> HeaderBytes<N> {
    pub(super) fn new() -> Self {
        HeaderBytes {
            bytes: [0; N],
            len: 0,
        }
    }

    fn put(mut self, field: &[u8]) -> Self {
        let end = self.len + field.len();
        self.bytes[self.len..end].copy_from_slice(field);
        self.len = end;
        self
    }

    pub(super) fn u16(self, value: u16) -> Self {
        self.put(&value.to_be_bytes())
    }

    pub(super) fn u32(self, value: u32) -> Self {
        self.put(&value.to_be_bytes())
    }

    pub(super) fn u64(self, value: u64) -> Self {
        self.put(&value.to_be_bytes())
    }

    /// The header; what was not put is zero.
    pub(super) fn done(self) -> [u8; N] {
        self.bytes
    }
}
