//! Errors of the reader, in QEMU's words.
#![forbid(unsafe_code)]

use crate::{Error, ErrorKind};

/// `JSON parse error, ...`
pub(super) fn syntax(what: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        format!("JSON parse error, {what}"),
    )
}

/// The part of a client's bytes that an error message quotes: 128 bytes at most.
pub(super) fn quote(bytes: &[u8]) -> String {
    const QUOTED: usize = 128;
    let mut quoted = String::from_utf8_lossy(&bytes[..bytes.len().min(QUOTED)]).into_owned();
    if bytes.len() > QUOTED {
        quoted.push_str("...");
    }
    quoted
}
