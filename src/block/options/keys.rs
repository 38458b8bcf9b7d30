//! A list of options that remembers which of them were asked for.
#![forbid(unsafe_code)]

use crate::{Error, ErrorKind, Result};

/// Options being read; what nobody asked for is an error in the end.
#[derive(Debug)]
pub(super) struct Keys<'a> {
    options: Vec<(&'a str, &'a str)>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(options: &'a [(String, String)]) -> Self {
        let options = options.iter();
        Keys {
            options: options.map(|(k, v)| (k.as_str(), v.as_str())).collect(),
        }
    }

    /// The value of `key`; the last one if it was given several times.
    pub(super) fn take(&mut self, key: &str) -> Option<&'a str> {
        let mut value = None;
        self.options.retain(|&(k, v)| {
            let found = k == key;
            if found {
                value = Some(v);
            }
            !found
        });
        value
    }

    /// The options below `key.`, without that prefix.
    pub(super) fn take_nested(&mut self, key: &str) -> Vec<(String, String)> {
        let mut nested = Vec::new();
        self.options.retain(|&(k, v)| {
            let below = k.strip_prefix(key).and_then(|rest| rest.strip_prefix('.'));
            nested.extend(below.map(|name| (name.to_owned(), v.to_owned())));
            below.is_none()
        });
        nested
    }

    pub(super) fn required(&mut self, key: &str) -> Result<String> {
        self.required_text(key, &format!("Parameter '{key}' is missing"))
    }

    /// The value of `key`, or an error that says `message`.
    pub(super) fn required_text(&mut self, key: &str, message: &str) -> Result<String> {
        let missing = || Error::new(ErrorKind::MissingArgument, message.to_owned());
        self.take(key).map(str::to_owned).ok_or_else(missing)
    }

    pub(super) fn bool(&mut self, key: &str) -> Result<Option<bool>> {
        self.take(key)
            .map(|value| parse_bool(key, value))
            .transpose()
    }

    /// A number of bytes, with QEMU's suffixes.
    pub(super) fn size(&mut self, key: &str) -> Result<Option<u64>> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match &value[digits.len()..] {
            "" | "b" | "B" => 0,
            "k" | "K" => 10,
            "m" | "M" => 20,
            "g" | "G" => 30,
            "t" | "T" => 40,
            _ => 64,
        };
        let scaled = digits
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(1_u64.checked_shl(shift)?));
        let valid = scaled.filter(|&size| size <= i64::MAX.cast_unsigned());
        let message = || format!("Parameter '{key}' expects a size");
        valid
            .map(Some)
            .ok_or_else(|| Error::new(ErrorKind::InvalidArgument, message()))
    }

    /// Checks that `key`, if given, has one of `values`.
    pub(super) fn only(&mut self, key: &str, values: &[&str]) -> Result<()> {
        match self.take(key) {
            Some(value) if !values.contains(&value) => {
                let message = format!("Parameter '{key}' does not accept value '{value}'");
                Err(Error::new(ErrorKind::InvalidArgument, message))
            }
            _ => Ok(()),
        }
    }

    /// Refuses the first option that nobody asked for.
    pub(super) fn finish(self) -> Result<()> {
        match self.options.first() {
            None => Ok(()),
            Some((key, _)) => {
                let message = format!("Invalid parameter '{key}'");
                Err(Error::new(ErrorKind::InvalidArgument, message))
            }
        }
    }
}

/// QEMU's booleans.
pub(super) fn parse_bool(key: &str, value: &str) -> Result<bool> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => {
            let message = format!("Parameter '{key}' expects 'on' or 'off'");
            Err(Error::new(ErrorKind::InvalidArgument, message))
        }
    }
}
