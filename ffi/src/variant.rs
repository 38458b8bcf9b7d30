//! Property values as GVariants and as text.
#![forbid(unsafe_code)]

use glib::variant::ToVariant;
use glib::{Variant, VariantTy};
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

/// Converts a boolean, a number, a string or an array of these; `None` for other types.
pub(crate) fn from_variant(value: &Variant) -> Option<Value> {
    let of = value.type_();
    if of.is_subtype_of(VariantTy::ARRAY) && !of.is_subtype_of(VariantTy::DICTIONARY) {
        return value.iter().map(|item| scalar(&unboxed(item))).collect();
    }
    scalar(value)
}

/// What a variant in a variant has in it.
fn unboxed(value: Variant) -> Variant {
    let is_box = value.is_type(VariantTy::VARIANT);
    let inside = is_box.then(|| value.as_variant()).flatten();
    inside.unwrap_or(value)
}

fn scalar(value: &Variant) -> Option<Value> {
    None.or_else(|| value.get::<bool>().map(Value::from))
        .or_else(|| value.get::<i64>().map(Value::from))
        .or_else(|| value.get::<u64>().map(Value::from))
        .or_else(|| value.get::<i32>().map(|small| Value::Int(small.into())))
        .or_else(|| value.get::<u32>().map(|small| Value::Int(small.into())))
        .or_else(|| value.get::<u16>().map(|small| Value::Int(small.into())))
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
        assert_eq!(from_variant(&to_variant(&Value::Null)), None);
        assert_eq!(from_variant(&to_variant(&Value::empty())), None);
    }

    #[test]
    fn arrays_of_scalars_become_lists() {
        let numbers = Value::List(vec![Value::Int(0), Value::Int(5)]);
        assert_eq!(from_variant(&to_variant(&numbers)), Some(numbers.clone()));
        for array in [
            [0u16, 5].to_variant(),
            [0i32, 5].to_variant(),
            [0u32, 5].to_variant(),
            [0i64, 5].to_variant(),
            [0u64, 5].to_variant(),
        ] {
            assert_eq!(from_variant(&array), Some(numbers.clone()), "{array}");
        }
        let none = Value::List(Vec::new());
        assert_eq!(from_variant(&to_variant(&none)), Some(none));
        let nested = Value::List(vec![numbers]);
        assert_eq!(from_variant(&to_variant(&nested)), None);
    }

    #[test]
    fn text_is_what_people_read() {
        let value = Value::dict([("a", Value::Int(1)), ("b", Value::List(vec![Value::Null]))]);
        assert_eq!(to_text(&value), "{a: 1, b: [null]}");
    }
}
