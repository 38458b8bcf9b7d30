//! What the names of contexts, devices and block nodes may look like.
#![forbid(unsafe_code)]

use crate::{Error, ErrorKind, Result};

/// Checks that `id`, given as `parameter`, is a letter followed by letters, digits, `-`, `.` and `_`.
///
/// # Errors
/// `Parameter 'id' expects an identifier`
pub fn check_id(id: &str, parameter: &str) -> Result<()> {
    let mut bytes = id.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic());
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if first && bytes.all(rest) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidId,
        format!("Parameter '{parameter}' expects an identifier"),
    ))
}
