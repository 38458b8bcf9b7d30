//! JSON as QEMU's monitor speaks it, read incrementally and in linear time.
//!
//! The monitor, the `{...}` form of command-line options and the client subcommands use it. [`Framer`] takes bytes as
//! they arrive and hands out one top-level value at a time, by structure alone: a request needs no newline. The
//! dialect is RFC 8259 plus single-quoted strings, minus duplicate keys; error texts are those people know from QEMU.
//!
//! # Invariants
//! 1. Work is linear in the bytes fed: each byte is seen once by the lexer, each token once by the parser.
//! 2. Neither reading nor writing recurses deeper than the nesting limit, and reading does not recurse at all.
//! 3. What the writer makes is valid JSON in ASCII: a number that is not finite is written as `null`.
#![forbid(unsafe_code)]

mod error;
mod framer;
mod lexer;
mod parser;
mod text;
mod writer;

#[cfg(test)]
mod tests;

pub use framer::{Framer, Limits};
pub use writer::write;

use error::syntax;

use crate::value::Value;
use crate::{Error, ErrorKind, Result};

/// Reads the one value that `text` holds.
///
/// # Errors
/// `JSON parse error, ...` as the monitor says it, or a limit that the text exceeds.
pub fn parse(text: &str) -> Result<Value> {
    let mut framer = Framer::new(Limits::default());
    let mut rest = text.as_bytes();
    let value = match framer.feed(&mut rest) {
        Some(value) => value?,
        None => {
            return framer
                .finish()
                .unwrap_or_else(|| Err(syntax("premature EOI")));
        }
    };
    match framer.feed(&mut rest).or_else(|| framer.finish()) {
        None => Ok(value),
        Some(_) => Err(Error::new(
            ErrorKind::InvalidArgument,
            "Expecting at most one JSON value",
        )),
    }
}

/// The text of `value`.
pub fn to_string(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}
