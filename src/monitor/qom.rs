//! The commands that read and change the object tree.
#![forbid(unsafe_code)]

use crate::object::types::{self, Type};
use crate::object::{self, Options, Property, Value, expected, tree};
use crate::{Error, ErrorKind, Result};

pub(super) fn list(mut arguments: Options) -> Result<Value> {
    let path = arguments.need_str("path")?;
    arguments.finish()?;
    tree::list(&path).map(|properties| describe(&properties))
}

pub(super) fn get(mut arguments: Options) -> Result<Value> {
    let path = arguments.need_str("path")?;
    let property = arguments.need_str("property")?;
    arguments.finish()?;
    tree::get(&path, &property)
}

pub(super) fn set(mut arguments: Options) -> Result<Value> {
    let path = arguments.need_str("path")?;
    let property = arguments.need_str("property")?;
    let value = arguments.need("value")?;
    arguments.finish()?;
    tree::set(&path, &property, value)?;
    Ok(Value::empty())
}

pub(super) fn object_add(arguments: Options) -> Result<Value> {
    object::object_add(arguments)?;
    Ok(Value::empty())
}

pub(super) fn object_del(mut arguments: Options) -> Result<Value> {
    let id = arguments.need_str("id")?;
    arguments.finish()?;
    object::object_del(&id)?;
    Ok(Value::empty())
}

pub(super) fn list_types(mut arguments: Options) -> Result<Value> {
    let implements = arguments.take_str("implements")?;
    // `abstract` adds abstract types to the answer. We have none.
    if !matches!(arguments.take("abstract"), None | Some(Value::Bool(_))) {
        return Err(expected("abstract", "boolean"));
    }
    arguments.finish()?;
    let types = implements.map_or_else(types::list, |name| types::implementing(&name));
    Ok(types.iter().map(describe_type).collect())
}

fn describe_type(one: &Type) -> Value {
    Value::dict([("name", one.name.into()), ("parent", one.parent.into())])
}

pub(super) fn list_properties(mut arguments: Options) -> Result<Value> {
    let name = arguments.need_str("typename")?;
    arguments.finish()?;
    let found = types::find(&name).ok_or_else(|| {
        Error::new(
            ErrorKind::DeviceNotFound,
            format!("Class '{name}' not found"),
        )
    })?;
    Ok(describe(&found.properties))
}

fn describe(properties: &[Property]) -> Value {
    let entry = |property: &Property| {
        Value::dict([
            ("name", property.name.as_ref().into()),
            ("type", property.type_name.as_ref().into()),
        ])
    };
    properties.iter().map(entry).collect()
}
