//! Dotted keys as nested objects: `file.driver=raw` is `file: {driver: raw}`.
#![forbid(unsafe_code)]

use crate::object::{Dict, Value};
use crate::{Error, ErrorKind, Result};

/// Makes nested objects of dotted keys.
///
/// # Errors
/// `Parameters 'file.*' used inconsistently` if a key is both a value and the beginning of another key.
pub(super) fn nest(flat: Dict) -> Result<Dict> {
    let mut nested = Dict::new();
    for (key, value) in flat {
        insert(&mut nested, "", &key, value)?;
    }
    Ok(nested)
}

/// Puts `value` into `into` at `key`. `before` is the path to `into`, with a dot at its end.
fn insert(into: &mut Dict, before: &str, key: &str, value: Value) -> Result<()> {
    let Some((first, rest)) = key.split_once('.') else {
        return match into.iter().any(|(known, _)| known == key) {
            true => Err(inconsistent(&format!("{before}{key}"))),
            false => {
                into.push((key.to_owned(), value));
                Ok(())
            }
        };
    };
    let index = into.iter().position(|(known, _)| known == first);
    let index = index.unwrap_or_else(|| {
        into.push((first.to_owned(), Value::empty()));
        into.len() - 1
    });
    let path = format!("{before}{first}");
    match &mut into[index].1 {
        Value::Dict(inner) => insert(inner, &format!("{path}."), rest, value),
        _ => Err(inconsistent(&path)),
    }
}

fn inconsistent(key: &str) -> Error {
    let message = format!("Parameters '{key}.*' used inconsistently");
    Error::new(ErrorKind::InvalidArgument, message)
}
