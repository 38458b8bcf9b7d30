//! Options in their three forms, `qcontext,id=ctx1,threaded=yes`, dotted keys and JSON, and typed access to them.
//!
//! The command line and the monitor parse [`Options`]. The constructor of an object takes the options it knows out of them,
//! then calls [`Options::finish`], which reports the first option that is left. So a misspelt option is an error. Error
//! texts are QEMU's and depend on the form, because people search for them.
#![forbid(unsafe_code)]

mod list;
#[cfg(feature = "vhost-user")] // block drivers alone need it
mod nested;
mod number;
mod text;

#[cfg(test)]
mod tests;

use super::{Dict, Value, expected};
pub use crate::context::check_id;
use crate::{Error, ErrorKind, Result, json};

/// The form in which options were written. Values and error texts depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `-object`, `-device`, `-drive`: `k=v,...` with bare flags.
    Opts,
    /// `-blockdev`: `k=v,...` with dotted keys and no bare flags.
    Keyval,
    /// JSON: values are typed.
    Json,
}

/// Parsed options that no constructor has taken yet.
#[derive(Clone, Debug)]
pub struct Options {
    form: Form,
    /// Prefix of names in messages: `file.` in the group `file`.
    prefix: String,
    entries: Dict,
    /// The names are paths: `file.driver` is the member `driver` of the member `file`.
    dotted: bool,
    /// Values of a repeated name, except the last: `cpu-affinity=0,cpu-affinity=4`.
    repeated: Dict,
    help: bool,
    warnings: Vec<String>,
}

impl Options {
    /// Options of a JSON object, such as the arguments of a monitor command.
    pub fn from_dict(entries: Dict) -> Options {
        Options::new(Form::Json, entries)
    }

    fn new(form: Form, entries: Dict) -> Options {
        Options {
            form,
            prefix: String::new(),
            entries,
            dotted: form == Form::Keyval,
            repeated: Dict::new(),
            help: false,
            warnings: Vec::new(),
        }
    }

    fn of_text(form: Form, parsed: text::Parsed) -> Options {
        Options {
            repeated: parsed.repeated,
            help: parsed.help,
            warnings: parsed.warnings,
            ..Options::new(form, parsed.entries)
        }
    }

    /// The form of these options.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Whether a name with dots is the path to a member of a nested object.
    pub(crate) fn is_dotted(&self) -> bool {
        self.dotted
    }

    /// The options that are left, as a JSON object has them.
    pub(crate) fn into_entries(self) -> Dict {
        self.entries
    }

    /// Whether `help` or `?` is among the options.
    pub fn wants_help(&self) -> bool {
        self.help
    }

    /// Warnings for the user, such as deprecated spellings. Each is one message.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The value of a string option. The option stays.
    pub fn peek(&self, name: &str) -> Option<&str> {
        let (_, value) = self.entries.iter().find(|(key, _)| key == name)?;
        value.as_str()
    }

    /// Takes an option of any type.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        let index = self.entries.iter().position(|(key, _)| key == name)?;
        Some(self.entries.remove(index).1)
    }

    /// Takes a string.
    ///
    /// # Errors
    /// The value is not a string.
    pub fn take_str(&mut self, name: &str) -> Result<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Str(text)) => Ok(Some(text)),
            Some(_) => Err(expected(&self.full(name), "string")),
        }
    }

    /// Takes a mandatory string.
    ///
    /// # Errors
    /// `Parameter 'x' is missing`, or the value is not a string.
    pub fn need_str(&mut self, name: &str) -> Result<String> {
        self.take_str(name)?
            .ok_or_else(|| missing(&self.full(name)))
    }

    /// Takes a mandatory option of any type.
    ///
    /// # Errors
    /// `Parameter 'x' is missing`
    pub fn need(&mut self, name: &str) -> Result<Value> {
        self.take(name).ok_or_else(|| missing(&self.full(name)))
    }

    /// Takes the mandatory `id`.
    ///
    /// # Errors
    /// It is missing, or not an identifier.
    pub fn need_id(&mut self) -> Result<String> {
        let id = self.need_str("id")?;
        check_id(&id, "id")?;
        Ok(id)
    }

    /// Takes a boolean: `on yes true y`, `off no false n`, or JSON's.
    ///
    /// # Errors
    /// The value is anything else.
    pub fn take_bool(&mut self, name: &str) -> Result<Option<bool>> {
        match (self.take(name), self.form) {
            (None, _) => Ok(None),
            (Some(Value::Bool(value)), Form::Json) => Ok(Some(value)),
            (Some(Value::Str(text)), Form::Opts | Form::Keyval) => text::boolean(&text)
                .map(Some)
                .ok_or_else(|| self.bad(name, "'on' or 'off'")),
            _ => Err(expected(&self.full(name), "boolean")),
        }
    }

    /// Takes an integer: decimal, hexadecimal or octal as in C, or JSON's.
    ///
    /// # Errors
    /// The value is not an integer or does not fit.
    pub fn take_int(&mut self, name: &str) -> Result<Option<i64>> {
        match (self.take(name), self.form) {
            (None, _) => Ok(None),
            (Some(Value::Int(value)), Form::Json) => Ok(Some(value)),
            (Some(Value::Str(text)), Form::Opts) => number::integer(&text)
                .map(Some)
                .ok_or_else(|| self.bad(name, "an int64 value")),
            (Some(Value::Str(text)), Form::Keyval) => number::integer(&text)
                .map(Some)
                .ok_or_else(|| self.bad(name, "integer")),
            _ => Err(expected(&self.full(name), "integer")),
        }
    }

    /// Takes an integer within `range`.
    ///
    /// # Errors
    /// The value is not an integer in the range.
    pub fn take_uint(
        &mut self,
        name: &str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<u64>> {
        let Some(value) = self.take_int(name)? else {
            return Ok(None);
        };
        match u64::try_from(value) {
            Ok(value) if range.contains(&value) => Ok(Some(value)),
            _ => Err(self.bad(
                name,
                &format!("a number from {} to {}", range.start(), range.end()),
            )),
        }
    }

    /// Takes a number of bytes: `512`, `64k`, `1.5G`; in JSON an integer.
    ///
    /// # Errors
    /// The value is not a size.
    pub fn take_size(&mut self, name: &str) -> Result<Option<u64>> {
        match (self.take(name), self.form) {
            (None, _) => Ok(None),
            (Some(Value::Int(value)), Form::Json) => u64::try_from(value)
                .map(Some)
                .map_err(|_| self.bad(name, "a non-negative number below 2^64")),
            (Some(Value::Uint(value)), Form::Json) => Ok(Some(value)),
            (Some(Value::Str(text)), Form::Opts | Form::Keyval) => number::size(&text)
                .map(Some)
                .ok_or_else(|| self.bad(name, "a non-negative number below 2^64")),
            _ => Err(expected(&self.full(name), "integer")),
        }
    }

    /// Takes all options whose names begin with `name` and a dot, or the members of the object `name`. In the result the
    /// names lack that prefix.
    ///
    /// # Errors
    /// The name also has a value of its own.
    pub fn take_group(&mut self, name: &str) -> Result<Options> {
        let prefix = format!("{name}.");
        let is_object =
            |(key, value): &(String, Value)| key == name && matches!(value, Value::Dict(_));
        if let Some(index) = self.entries.iter().position(is_object)
            && let (_, Value::Dict(members)) = self.entries.remove(index)
        {
            let mut group = Options::new(self.form, members);
            group.prefix = self.full(&prefix);
            return Ok(group);
        }
        let (inside, outside): (Dict, Dict) = std::mem::take(&mut self.entries)
            .into_iter()
            .partition(|(key, _)| key.starts_with(&prefix));
        self.entries = outside;
        if !inside.is_empty() && self.entries.iter().any(|(key, _)| key == name) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("Parameters '{}.*' used inconsistently", self.full(name)),
            ));
        }
        let inside = inside.into_iter();
        let stripped = inside.map(|(key, value)| (key[prefix.len()..].to_owned(), value));
        let mut group = Options::new(self.form, stripped.collect());
        group.dotted = self.dotted;
        group.prefix = self.full(&prefix);
        Ok(group)
    }

    /// The names of the options that are left.
    pub fn remaining(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(key, _)| key.as_str())
    }

    /// Whether no option is left.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Checks that no option is left.
    ///
    /// # Errors
    /// `Invalid parameter 'x'` or, in JSON and dotted form, `Parameter 'x' is unexpected`.
    pub fn finish(&self) -> Result<()> {
        let Some((name, _)) = self.entries.first() else {
            return Ok(());
        };
        let name = self.full(name);
        let message = match self.form {
            Form::Opts => format!("Invalid parameter '{name}'"),
            Form::Keyval | Form::Json => format!("Parameter '{name}' is unexpected"),
        };
        Err(Error::new(ErrorKind::InvalidArgument, message))
    }

    /// `Parameter 'x' expects ...`, for the caller's own checks.
    pub fn bad(&self, name: &str, expects: &str) -> Error {
        Error::new(
            ErrorKind::InvalidArgument,
            format!("Parameter '{}' expects {expects}", self.full(name)),
        )
    }

    /// The name with the names of the groups that it is in.
    pub fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// Parses an option string of `-object`, `-device` or `-drive`. If the first item has no `=`, it is the value of `implied`.
/// Other items without `=` are flags. A text that begins with `{` is JSON.
///
/// # Errors
/// A JSON text that is not an object of typed values.
pub fn parse(implied: Option<&str>, text: &str) -> Result<Options> {
    if text.starts_with('{') {
        return parse_json(text).map(Options::from_dict);
    }
    Ok(Options::of_text(
        Form::Opts,
        text::parse_opts(implied, text),
    ))
}

/// Parses an option string of `-blockdev`: dotted keys, no flags; or a JSON object.
///
/// # Errors
/// A malformed key, a bare word, or a JSON text that is not an object.
pub fn parse_dotted(implied: &str, text: &str) -> Result<Options> {
    if !text.starts_with('{') {
        let parsed = text::parse_keyval(implied, text)?;
        return Ok(Options::of_text(Form::Keyval, parsed));
    }
    Ok(Options::from_dict(parse_json(text)?))
}

fn parse_json(text: &str) -> Result<Dict> {
    match json::parse(text)? {
        Value::Dict(entries) => Ok(entries),
        _ => Err(Error::new(
            ErrorKind::InvalidArgument,
            "Expecting a JSON object",
        )),
    }
}

/// The boolean that `on yes true y` or `off no false n` stands for.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    text::boolean(text)
}

/// An integer: decimal, hexadecimal or octal as in C.
pub(crate) fn integer(text: &str) -> Option<i64> {
    number::integer(text)
}

/// A number of bytes: `512`, `64k`, `1.5G`.
pub(crate) fn size(text: &str) -> Option<u64> {
    number::size(text)
}

/// `Parameter 'qom-type' does not accept value 'nosuch'`
pub(super) fn unknown_type(name: &str) -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        format!("Parameter 'qom-type' does not accept value '{name}'"),
    )
}

/// `Parameter 'id' is missing`
pub fn missing(name: &str) -> Error {
    Error::new(
        ErrorKind::MissingArgument,
        format!("Parameter '{name}' is missing"),
    )
}
