//! The content of a string token: escapes resolved, UTF-8 checked.
#![forbid(unsafe_code)]

use super::error::syntax;
use crate::{Error, Result};

/// Decodes a string token, which includes its quotes.
pub(super) fn decode(token: &[u8]) -> Result<String> {
    let content = &token[1..token.len() - 1];
    let content =
        std::str::from_utf8(content).map_err(|_| syntax("invalid UTF-8 sequence in string"))?;
    let mut decoded = String::with_capacity(content.len());
    let mut rest = content;
    while let Some((plain, escape)) = rest.split_once('\\') {
        decoded.push_str(plain);
        let (character, after) = unescape(escape)?;
        decoded.push(character);
        rest = after;
    }
    decoded.push_str(rest);
    Ok(decoded)
}

/// The character of an escape sequence, and the text after it. `escape` begins after the backslash.
fn unescape(escape: &str) -> Result<(char, &str)> {
    let mut characters = escape.chars();
    let character = match characters.next() {
        Some('b') => '\u{8}',
        Some('f') => '\u{c}',
        Some('n') => '\n',
        Some('r') => '\r',
        Some('t') => '\t',
        Some(same @ ('"' | '\'' | '\\' | '/')) => same,
        Some('u') => return unicode(escape),
        _ => return Err(syntax("invalid escape sequence in string")),
    };
    Ok((character, characters.as_str()))
}

fn unicode(escape: &str) -> Result<(char, &str)> {
    let first = code_unit(escape).ok_or_else(|| not_a_character(escape, 5))?;
    let rest = &escape[5..];
    if let Some(character) = char::from_u32(first) {
        return Ok((character, rest));
    }
    let second = rest.strip_prefix('\\').and_then(code_unit);
    match second {
        Some(low @ 0xdc00..=0xdfff) if first < 0xdc00 => {
            let code = 0x10000 + ((first - 0xd800) << 10) + (low - 0xdc00);
            let character = char::from_u32(code).ok_or_else(|| not_a_character(escape, 11))?;
            Ok((character, &rest[6..]))
        }
        _ => Err(not_a_character(escape, 5)),
    }
}

/// The number in `uXXXX`.
fn code_unit(escape: &str) -> Option<u32> {
    let digits = escape.strip_prefix('u')?.get(..4)?;
    let hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    hexadecimal.then(|| u32::from_str_radix(digits, 16).ok())?
}

fn not_a_character(escape: &str, length: usize) -> Error {
    let shown: String = escape.chars().take(length).collect();
    syntax(format_args!("\\{shown} is not a valid Unicode character"))
}
