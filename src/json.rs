//! JSON in the dialect of QEMU's monitor, read incrementally and in linear time.
//!
//! The monitor, the `{...}` form of command-line options and the client subcommands use it. [`Framer`] takes bytes as
//! they arrive and returns one top-level value at a time. It finds the end of a value by its brackets, so a request needs
//! no newline. The dialect is RFC 8259 plus single-quoted strings, without duplicate keys. Error texts are QEMU's.
//!
//! # Invariants
//! 1. Work is linear in the number of bytes: the lexer sees each byte once, the parser each token once.
//! 2. Reading does not recurse. Writing recurses no deeper than the nesting limit.
//! 3. The writer makes valid JSON in ASCII. It writes a number that is not finite as `null`.
#![forbid(unsafe_code)]

mod error;
mod framer;
mod lexer;
mod parser;
mod text;
mod writer;

#[cfg(test)]
mod tests;

pub use framer::{Framer, ValueLimits};

use error::syntax;
use writer::{write, write_pretty};

use crate::value::Value;
use crate::{Error, ErrorKind, Result};

/// Reads the single value in `text`.
///
/// # Errors
/// `JSON parse error, ...`, or the text exceeds a limit.
pub fn parse(text: &str) -> Result<Value> {
    let mut framer = Framer::new(ValueLimits::default());
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

/// The text of `value` on several lines, with an indentation of four spaces.
pub fn to_pretty_string(value: &Value) -> String {
    let mut text = String::new();
    write_pretty(value, 0, &mut text);
    text
}
