//! The values that properties, options and monitor messages have.
#![forbid(unsafe_code)]

/// The members of an object, in the order they were given.
pub type Dict = Vec<(String, Value)>;

/// A property's value, or a JSON value: the monitor shows the one as the other.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// JSON's null.
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer that fits into an `i64`; [`Value::from`] keeps to that.
    Int(i64),
    /// An integer over `i64::MAX`.
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

    /// The member of that name, if this is an object that has one.
    pub fn member(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Dict(entries) => entries
                .iter()
                .find_map(|(key, value)| (key == name).then_some(value)),
            _ => None,
        }
    }

    /// The string, if this is one.
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
