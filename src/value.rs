//! The value type of properties, options and monitor messages.
//!
//! `object` re-exports it. It is a file of its own because `json` and `object` both use it.
#![forbid(unsafe_code)]

/// The members of an object, in the order they were given.
pub type Dict = Vec<(String, Value)>;

/// The value of a property. The monitor shows it as JSON, so it is a JSON value too.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// JSON's null.
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer that fits into an `i64`. [`Value::from`] makes all of these `Int`.
    Int(i64),
    /// An integer above `i64::MAX`.
    Uint(u64),
    /// Any other number.
    Double(f64),
    /// A string.
    Str(String),
    /// An array.
    List(Vec<Value>),
    /// An object.
    Dict(Dict),
}

impl Value {
    /// An object of these members.
    pub fn dict<K: Into<String>, const N: usize>(members: [(K, Value); N]) -> Value {
        let members = members.into_iter();
        Value::Dict(members.map(|(key, value)| (key.into(), value)).collect())
    }

    /// An object without members: the answer of a command that only does something.
    pub fn empty() -> Value {
        Value::Dict(Dict::new())
    }

    /// The member of that name. `None` if this is not an object or has no such member.
    pub fn member(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Dict(entries) => entries
                .iter()
                .find_map(|(key, value)| (key == name).then_some(value)),
            _ => None,
        }
    }

    /// The text, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Value::Int(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        i64::try_from(value).map_or(Value::Uint(value), Value::Int)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Value::Str(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Value::Str(value)
    }
}

impl FromIterator<Value> for Value {
    fn from_iter<I: IntoIterator<Item = Value>>(items: I) -> Self {
        Value::List(items.into_iter().collect())
    }
}
