//! Checks values against types, and turns the texts of option strings into values.
//!
//! Order and texts of errors are QEMU's: an object's members in the order of their description, what is left over last.
//! Errors about a value's type name the whole path to it, errors about the value itself only the last part.
#![forbid(unsafe_code)]

use super::nest::nest;
use super::{AlternateType, EnumType, Member, ObjectType, ValueType};
use crate::object::options::{self, Form};
use crate::object::{Dict, Options, Value, expected};
use crate::{Error, ErrorKind, Result};

/// Checks options against the type of an object. The result has values of the right types, nested, in JSON's form.
///
/// # Errors
/// The first member that is missing, has a wrong value or is not described.
pub fn check(object: &ObjectType, options: Options) -> Result<Options> {
    let form = options.form();
    let entries = match options.is_dotted() {
        true => nest(options.into_entries())?,
        false => options.into_entries(),
    };
    check_object(object, entries, &ValuePlace::top(form)).map(Options::from_dict)
}

/// Checks one JSON value, which errors call `name`.
///
/// # Errors
/// It is not of that type.
pub fn check_value(of: &ValueType, value: Value, name: &str) -> Result<Value> {
    check_one(of, value, &ValuePlace::top(Form::Json).member(name))
}

/// Where a value stands.
struct ValuePlace {
    form: Form,
    /// The path to it.
    full: String,
    /// The last part of the path; elements of lists have none.
    name: Option<String>,
}

impl ValuePlace {
    fn top(form: Form) -> ValuePlace {
        ValuePlace {
            form,
            full: String::new(),
            name: None,
        }
    }

    fn member(&self, name: &str) -> ValuePlace {
        let dot = if self.full.is_empty() { "" } else { "." };
        ValuePlace {
            form: self.form,
            full: format!("{}{dot}{name}", self.full),
            name: Some(name.to_owned()),
        }
    }

    fn element(&self, index: usize) -> ValuePlace {
        let full = match self.form {
            Form::Json => format!("{}[{index}]", self.full),
            Form::Opts | Form::Keyval => format!("{}.{index}", self.full),
        };
        ValuePlace {
            form: self.form,
            full,
            name: None,
        }
    }

    /// `Parameter 'x' expects ...`, with the last part of the path.
    fn expects(&self, what: &str) -> Error {
        invalid(format!("Parameter '{}' expects {what}", self.last()))
    }

    /// QEMU's name for a list's element is `null`.
    fn last(&self) -> &str {
        self.name.as_deref().unwrap_or("null")
    }

    fn wrong_type(&self, what: &str) -> Error {
        expected(&self.full, what)
    }
}

fn check_object(object: &ObjectType, mut entries: Dict, place: &ValuePlace) -> Result<Dict> {
    let mut checked = Dict::new();
    let mut members = object.members.to_vec();
    if let Some(variants) = &object.variants {
        take(&variants.tag_member(), &mut entries, &mut checked, place)?;
        let value = checked.last().and_then(|(_, value)| value.as_str());
        let cases = (variants.cases)();
        let case = cases.into_iter().find(|case| Some(case.tag) == value);
        members.extend(case.into_iter().flat_map(|case| case.members));
    }
    for member in &members {
        take(member, &mut entries, &mut checked, place)?;
    }
    if object.is_open {
        checked.append(&mut entries);
    }
    match entries.first() {
        None => Ok(checked),
        Some((name, Value::Dict(_))) if place.form == Form::Keyval => {
            let name = place.member(name).full;
            Err(invalid(format!("Parameters '{name}.*' are unexpected")))
        }
        Some((name, _)) => {
            let name = place.member(name).full;
            Err(invalid(format!("Parameter '{name}' is unexpected")))
        }
    }
}

/// Moves a member from `entries` to `checked`.
fn take(member: &Member, entries: &mut Dict, checked: &mut Dict, place: &ValuePlace) -> Result<()> {
    let place = place.member(member.name);
    let Some(index) = entries.iter().position(|(key, _)| key == member.name) else {
        return match member.is_optional {
            true => Ok(()),
            false => Err(options::missing(&place.full)),
        };
    };
    let (key, value) = entries.remove(index);
    checked.push((key, check_one(&member.value, value, &place)?));
    Ok(())
}

fn check_one(of: &ValueType, value: Value, place: &ValuePlace) -> Result<Value> {
    if let (Form::Opts | Form::Keyval, Value::Str(text)) = (place.form, &value)
        && let Some(parsed) = parse(of, text, place)
    {
        return parsed;
    }
    match (of, value) {
        (ValueType::Any, value)
        | (ValueType::Str, value @ Value::Str(_))
        | (ValueType::Bool, value @ Value::Bool(_))
        | (ValueType::Int, value @ Value::Int(_))
        | (ValueType::Number, value @ (Value::Int(_) | Value::Uint(_) | Value::Double(_)))
        | (ValueType::Null, value @ Value::Null) => Ok(value),
        (ValueType::Uint(_) | ValueType::Size, value @ (Value::Int(_) | Value::Uint(_))) => {
            check_unsigned(of, value, place)
        }
        (ValueType::Enum(values), Value::Str(text)) => check_enum(values, text, place),
        (ValueType::Object(object), Value::Dict(entries)) => {
            check_object(object, entries, place).map(Value::Dict)
        }
        (ValueType::Array(element), value) => check_array(element, value, place),
        (ValueType::Alternate(alternate), value) => check_alternate(alternate, value, place),
        (_, Value::Dict(_)) if place.form == Form::Keyval => Err(invalid(format!(
            "Parameters '{}.*' are unexpected",
            place.full
        ))),
        _ => Err(place.wrong_type(of.json_name())),
    }
}

/// The value that a text of an option string stands for; `None` if the type has no other values than texts.
fn parse(of: &ValueType, text: &str, place: &ValuePlace) -> Option<Result<Value>> {
    let value = match of {
        ValueType::Bool => options::boolean(text).map(Value::Bool),
        ValueType::Int | ValueType::Number => options::integer(text).map(Value::Int),
        ValueType::Uint(_) => {
            let number = options::integer(text).map(Value::Int);
            return Some(match number {
                Some(number) => check_unsigned(of, number, place),
                None => Err(integer_expected(place)),
            });
        }
        ValueType::Size => options::size(text).map(Value::from),
        _ => return None,
    };
    Some(value.ok_or_else(|| match of {
        ValueType::Bool => whole(place, "'on' or 'off'"),
        ValueType::Size => whole(place, "a non-negative number below 2^64"),
        _ => integer_expected(place),
    }))
}

fn integer_expected(place: &ValuePlace) -> Error {
    whole(place, "integer")
}

/// `Parameter 'a.b' expects ...`, with the whole path.
fn whole(place: &ValuePlace, what: &str) -> Error {
    invalid(format!("Parameter '{}' expects {what}", place.full))
}

fn check_unsigned(of: &ValueType, value: Value, place: &ValuePlace) -> Result<Value> {
    let number = match value {
        Value::Int(number) => u64::try_from(number).ok(),
        Value::Uint(number) => Some(number),
        _ => None,
    };
    let fits = |bits: u32| number.filter(|number| bits >= 64 || *number >> bits == 0);
    match of {
        ValueType::Uint(bits) => fits(*bits)
            .map(Value::from)
            .ok_or_else(|| place.expects(&format!("uint{bits}_t"))),
        _ => number
            .map(Value::from)
            .ok_or_else(|| place.expects("a non-negative number below 2^64")),
    }
}

fn check_enum(values: &EnumType, text: String, place: &ValuePlace) -> Result<Value> {
    if values.values().contains(&text.as_str()) {
        return Ok(Value::Str(text));
    }
    let name = place.last();
    Err(invalid(format!(
        "Parameter '{name}' does not accept value '{text}'"
    )))
}

fn check_array(element: &ValueType, value: Value, place: &ValuePlace) -> Result<Value> {
    let elements = match value {
        Value::List(elements) => elements,
        Value::Dict(numbered) if place.form == Form::Keyval => in_order(numbered, place)?,
        _ => return Err(place.wrong_type("array")),
    };
    let elements = elements.into_iter().enumerate();
    let checked = elements.map(|(index, one)| check_one(element, one, &place.element(index)));
    checked.collect::<Result<Vec<_>>>().map(Value::List)
}

/// The elements of a list whose keys are their numbers: `0`, `1`, and so on.
fn in_order(mut numbered: Dict, place: &ValuePlace) -> Result<Vec<Value>> {
    let mut elements = Vec::new();
    for index in 0..numbered.len() {
        let key = index.to_string();
        let found = numbered.iter().position(|(known, _)| *known == key);
        let found = found.ok_or_else(|| options::missing(&format!("{}.{index}", place.full)))?;
        elements.push(numbered.remove(found).1);
    }
    Ok(elements)
}

fn check_alternate(alternate: &AlternateType, value: Value, place: &ValuePlace) -> Result<Value> {
    let fits = |of: &&ValueType| {
        matches!(
            (of, &value),
            (ValueType::Str | ValueType::Enum(_), Value::Str(_))
                | (ValueType::Object(_), Value::Dict(_))
                | (ValueType::Null, Value::Null)
                | (ValueType::Bool, Value::Bool(_))
                | (
                    ValueType::Int | ValueType::Uint(_) | ValueType::Size,
                    Value::Int(_) | Value::Uint(_)
                )
                | (ValueType::Array(_), Value::List(_))
        )
    };
    match alternate.branches.iter().find(fits) {
        Some(of) => check_one(of, value, place),
        None => Err(place.wrong_type(alternate.name)),
    }
}

impl ValueType {
    /// The name of the type in error messages.
    fn json_name(&self) -> &'static str {
        match self {
            ValueType::Str | ValueType::Enum(_) => "string",
            ValueType::Bool => "boolean",
            ValueType::Int | ValueType::Uint(_) | ValueType::Size => "integer",
            ValueType::Number => "number",
            ValueType::Null => "null",
            ValueType::Any => "any",
            ValueType::Array(_) => "array",
            ValueType::Object(_) => "object",
            ValueType::Alternate(alternate) => alternate.name,
        }
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
