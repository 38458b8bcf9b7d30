//! Messages of the NBD protocol, encoded and decoded: newstyle negotiation, simple and structured replies, metadata contexts,
//! extended headers.
//!
//! The names and numbers are those of the specification, `doc/proto.md` of the reference implementation. Headers have a fixed
//! size and are arrays. What follows a header is a slice of the length that the header says; the caller limits that length
//! before it reads so many bytes.
//!
//! * [`handshake`]: the greetings, options and their replies
//! * [`export`]: what a server says of an export
//! * [`meta`]: metadata contexts
//! * [`request`], [`reply`]: the transmission phase
//! * [`errno`]: error numbers
//!
//! # Invariants
//! 1. Bytes come from a peer that may be hostile: every length is checked against what is there, and nothing is allocated
//!    that is larger than the input.
//! 2. A message that is decoded has the meaning that the specification gives it. Numbers that it does not know stay numbers.
#![forbid(unsafe_code)]

use std::fmt;

pub mod errno;
pub mod export;
pub mod handshake;
pub mod meta;
pub mod reply;
pub mod request;
#[cfg(test)]
mod tests;
mod wire;

/// The TCP port that belongs to NBD.
pub const PORT: u16 = 10809;

/// The longest string of the protocol, such as an export's name.
pub const MAX_STRING: usize = 4096;

/// The longest length in a request or in the payload of a reply that every peer accepts, unless block sizes say otherwise.
pub const MAX_PAYLOAD: u32 = 32 << 20;

/// A message that is not as the specification says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}
