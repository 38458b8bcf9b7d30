//! The two option string syntaxes.
//!
//! In both, a value ends at a single comma, `,,` in a value stands for a comma, and a value may contain `=`. The last value of a
//! repeated key counts, but in the form with flags the first `id`, and all of a list.
#![forbid(unsafe_code)]

use crate::value::{Dict, Value};
use crate::{Error, ErrorKind, Result};

/// `on yes true y` or `off no false n`.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "on" | "yes" | "true" | "y" => Some(true),
        "off" | "no" | "false" | "n" => Some(false),
        _ => None,
    }
}

/// A parsed option string.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) entries: Dict,
    /// Earlier values of repeated keys, in the form with flags.
    pub(super) repeated: Dict,
    /// It has the word `help` or `?`.
    pub(super) help: bool,
    /// Deprecated spellings in it, one message each.
    pub(super) warnings: Vec<String>,
}

pub(super) fn parse_opts(implied: Option<&str>, text: &str) -> Parsed {
    let mut options = Parsed::default();
    let mut rest = text;
    let mut implied = implied;
    while !rest.is_empty() {
        let implied = implied.take();
        match (key(rest), implied) {
            (Some((name, after)), _) => {
                let (value, after) = value(after);
                rest = after;
                add_opt(&mut options, name, value);
            }
            (None, Some(name)) => {
                let (word, after) = value(rest);
                rest = after;
                match word.as_str() {
                    "help" | "?" => options.help = true,
                    _ => add_opt(&mut options, name, word),
                }
            }
            (None, None) => {
                let (word, after) = rest.split_once(',').unwrap_or((rest, ""));
                rest = after;
                flag(&mut options, word);
            }
        }
    }
    options
}

fn flag(options: &mut Parsed, word: &str) {
    if matches!(word, "help" | "?") {
        options.help = true;
        return;
    }
    if word.is_empty() {
        return;
    }
    let (name, value) = match word.strip_prefix("no") {
        Some(name) if !name.is_empty() => (name, "off"),
        _ => (word, "on"),
    };
    options.warnings.push(format!(
        "short-form boolean option '{word}' deprecated\nPlease use {name}={value} instead"
    ));
    add_opt(options, name, value.to_owned());
}

fn add_opt(options: &mut Parsed, name: &str, value: String) {
    if name == "id" && options.entries.iter().any(|(key, _)| key == "id") {
        return;
    }
    if let Some(old) = put(&mut options.entries, name, value) {
        options.repeated.push((name.to_owned(), old));
    }
}

/// Returns the value that the key had.
fn put(entries: &mut Dict, name: &str, value: String) -> Option<Value> {
    let new = Value::Str(value);
    match entries.iter_mut().find(|(key, _)| key == name) {
        Some((_, old)) => Some(std::mem::replace(old, new)),
        None => {
            entries.push((name.to_owned(), new));
            None
        }
    }
}

pub(super) fn parse_keyval(implied: &str, text: &str) -> Result<Parsed> {
    let mut options = Parsed::default();
    let mut rest = text;
    let mut implied = Some(implied);
    while !rest.is_empty() {
        let (name, after) = match (key(rest), implied.take()) {
            (Some(pair), _) => pair,
            (None, Some(name)) => (name, rest),
            (None, None) => {
                let (word, after) = rest.split_once(',').unwrap_or((rest, ""));
                if !matches!(word, "help" | "?") {
                    return Err(invalid(format!("Expected '=' after parameter '{word}'")));
                }
                options.help = true;
                rest = after;
                continue;
            }
        };
        check_key(name)?;
        let (value, after) = value(after);
        rest = after;
        put(&mut options.entries, name, value);
    }
    Ok(options)
}

/// Accepts names or numbers with dots between them. A name begins with a letter and has letters, digits, `-` and `_`.
fn check_key(name: &str) -> Result<()> {
    let well_formed = |part: &str| {
        let digits = part.bytes().all(|byte| byte.is_ascii_digit());
        let letter = part.starts_with(|first: char| first.is_ascii_alphabetic());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        !part.is_empty() && (digits || (letter && part.bytes().all(plain)))
    };
    if name.split('.').all(well_formed) {
        return Ok(());
    }
    Err(invalid(format!("Invalid parameter '{name}'")))
}

/// The key and the text after its `=`, if an `=` comes before the next comma.
fn key(text: &str) -> Option<(&str, &str)> {
    let end = text.find(['=', ','])?;
    text[end..]
        .starts_with('=')
        .then(|| (&text[..end], &text[end + 1..]))
}

/// The value at the start of `text`, and the text after its comma.
fn value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut rest = text;
    while let Some((part, after)) = rest.split_once(',') {
        value.push_str(part);
        let Some(after_second) = after.strip_prefix(',') else {
            return (value, after);
        };
        value.push(',');
        rest = after_second;
    }
    value.push_str(rest);
    (value, "")
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
