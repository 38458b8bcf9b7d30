//! Options as block drivers take them: objects within objects, with defaults from the node above.
#![forbid(unsafe_code)]

use super::Options;
use crate::value::{Dict, Value};

impl Options {
    /// Sets an option that is absent.
    pub(crate) fn set_default(&mut self, name: &str, value: Value) {
        if !self.entries.iter().any(|(key, _)| key == name) {
            self.entries.push((name.to_owned(), value));
        }
    }

    /// The same options with paths as names instead of nested objects and lists.
    pub(crate) fn into_dotted(self) -> Options {
        let mut flat = Dict::new();
        flatten("", self.entries, &mut flat);
        Options {
            entries: flat,
            dotted: true,
            ..self
        }
    }

    /// The value of an option of any type. The option stays.
    pub(crate) fn peek_value(&self, name: &str) -> Option<&Value> {
        let (_, value) = self.entries.iter().find(|(key, _)| key == name)?;
        Some(value)
    }
}

fn flatten(prefix: &str, entries: Dict, flat: &mut Dict) {
    for (key, value) in entries {
        let key = format!("{prefix}{key}");
        match value {
            Value::Dict(inner) => flatten(&format!("{key}."), inner, flat),
            Value::List(inner) => {
                let numbers = (0..).map(|index: usize| index.to_string());
                flatten(&format!("{key}."), numbers.zip(inner).collect(), flat);
            }
            value => flat.push((key, value)),
        }
    }
}
