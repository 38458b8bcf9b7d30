//! Property values as GVariants and as text.
#![forbid(unsafe_code)]

use glib::Variant;
use glib::variant::ToVariant;
use qcontext::object::Value;

/// Converts a value. Null becomes an empty `maybe`, a list `av`, an object `a{sv}`.
pub(crate) fn to_variant(value: &Value) -> Variant {
    match value {
        Value::Null => None::<Variant>.to_variant(),
        Value::Bool(value) => value.to_variant(),
        Value::Int(value) => value.to_variant(),
        Value::Uint(value) => value.to_variant(),
        Value::Double(value) => value.to_variant(),
        Value::Str(text) => text.to_variant(),
        Value::List(items) => items
            .iter()
            .map(to_variant)
            .collect::<Vec<Variant>>()
            .to_variant(),
        Value::Dict(members) => {
            let dict = glib::VariantDict::new(None);
            for (name, member) in members {
                dict.insert_value(name, &to_variant(member));
            }
            dict.end()
        }
    }
}

/// Converts a boolean, a number or a string; `None` for other types.
pub(crate) fn from_variant(value: &Variant) -> Option<Value> {
    None.or_else(|| value.get::<bool>().map(Value::from))
        .or_else(|| value.get::<i64>().map(Value::from))
        .or_else(|| value.get::<u64>().map(Value::from))
        .or_else(|| value.get::<i32>().map(|small| Value::Int(small.into())))
        .or_else(|| value.get::<u32>().map(|small| Value::Int(small.into())))
        .or_else(|| value.get::<f64>().map(Value::Double))
        .or_else(|| value.get::<String>().map(Value::from))
}

/// The value as text for people.
pub(crate) fn to_text(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => value.to_string(),
        Value::Str(text) => text.clone(),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(to_text).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Dict(members) => {
            let members = members
                .iter()
                .map(|(name, member)| format!("{name}: {}", to_text(member)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_survive_the_way_to_glib_and_back() {
        for value in [
            Value::Bool(true),
            Value::Int(-3),
            Value::Uint(u64::MAX),
            Value::Str("ctx1".into()),
        ] {
            assert_eq!(from_variant(&to_variant(&value)), Some(value));
        }
        assert_eq!(from_variant(&to_variant(&Value::List(Vec::new()))), None);
    }

    #[test]
    fn text_is_what_people_read() {
        let value = Value::dict([("a", Value::Int(1)), ("b", Value::List(vec![Value::Null]))]);
        assert_eq!(to_text(&value), "{a: 1, b: [null]}");
    }
}
