//! The commands that read and change the object tree.
#![forbid(unsafe_code)]

use crate::object::types::{self, Type};
use crate::object::{self, Options, Property, Value, tree};
use crate::schema::{Case, CommandType, EnumType, Member, ObjectType, ValueType, Variants};
use crate::{Error, ErrorKind, Result};

const PATH: Member = Member::new("path", ValueType::Str);
const PROPERTY: Member = Member::new("property", ValueType::Str);

static PROPERTY_INFO: ObjectType = ObjectType::new(
    "ObjectPropertyInfo",
    &[
        Member::new("name", ValueType::Str),
        Member::new("type", ValueType::Str),
    ],
);

pub(super) static QOM_LIST: CommandType = CommandType::returning(
    "qom-list",
    &ObjectType::new("q_obj_qom-list-arg", &[PATH]),
    ValueType::Array(&ValueType::Object(&PROPERTY_INFO)),
);

pub(super) fn list(mut arguments: Options) -> Result<Value> {
    let path = arguments.need_str("path")?;
    tree::list(&path).map(|properties| describe(&properties))
}

pub(super) static QOM_GET: CommandType = CommandType::returning(
    "qom-get",
    &ObjectType::new("q_obj_qom-get-arg", &[PATH, PROPERTY]),
    ValueType::Any,
);

pub(super) fn get(mut arguments: Options) -> Result<Value> {
    let path = arguments.need_str("path")?;
    let property = arguments.need_str("property")?;
    tree::get(&path, &property)
}

pub(super) static QOM_SET: CommandType = CommandType::new(
    "qom-set",
    &ObjectType::new(
        "q_obj_qom-set-arg",
        &[PATH, PROPERTY, Member::new("value", ValueType::Any)],
    ),
);

pub(super) fn set(mut arguments: Options) -> Result<Value> {
    let path = arguments.need_str("path")?;
    let property = arguments.need_str("property")?;
    let value = arguments.need("value")?;
    tree::set(&path, &property, value)?;
    Ok(Value::empty())
}

pub(super) static OBJECT_ADD: CommandType = CommandType::new("object-add", &OBJECT_OPTIONS);

/// What `object-add` takes. The options of a type are those that its constructor lists.
static OBJECT_OPTIONS: ObjectType = ObjectType::tagged(
    "ObjectOptions",
    &[Member::new("id", ValueType::Str)],
    Variants {
        tag: "qom-type",
        tag_type: "ObjectType",
        cases: || {
            let types = types::list().into_iter();
            let creatable = types.filter(|one| one.create.is_some());
            creatable
                .map(|one| Case::new(one.name, &members(&one)))
                .collect()
        },
    },
);

fn members(of: &Type) -> Vec<Member> {
    let objects = of.option_types;
    let options = of.options.iter();
    let member = |&(name, type_name): &(&'static str, &'static str)| {
        let value = match type_name {
            "int" => ValueType::Int,
            "bool" => ValueType::Bool,
            "string" => ValueType::Str,
            "int[]" => ValueType::Array(&ValueType::Int),
            other => match objects.iter().find(|object| object.name == other) {
                Some(object) => ValueType::Object(object),
                None => ValueType::Enum(EnumType::joined(other)),
            },
        };
        Member::optional(name, value)
    };
    options.map(member).collect()
}

pub(super) fn object_add(arguments: Options) -> Result<Value> {
    object::object_add(arguments)?;
    Ok(Value::empty())
}

pub(super) static OBJECT_DEL: CommandType = CommandType::new(
    "object-del",
    &ObjectType::new("q_obj_object-del-arg", &[Member::new("id", ValueType::Str)]),
);

pub(super) fn object_del(mut arguments: Options) -> Result<Value> {
    let id = arguments.need_str("id")?;
    object::object_del(&id)?;
    Ok(Value::empty())
}

pub(super) static QOM_LIST_TYPES: CommandType = CommandType::returning(
    "qom-list-types",
    &ObjectType::new(
        "q_obj_qom-list-types-arg",
        &[
            Member::optional("implements", ValueType::Str),
            Member::optional("abstract", ValueType::Bool),
        ],
    ),
    ValueType::Array(&ValueType::Object(&TYPE_INFO)),
);
static TYPE_INFO: ObjectType = ObjectType::new(
    "ObjectTypeInfo",
    &[
        Member::new("name", ValueType::Str),
        Member::optional("abstract", ValueType::Bool),
        Member::optional("parent", ValueType::Str),
    ],
);

/// `abstract` would add abstract types to the answer. There are none.
pub(super) fn list_types(mut arguments: Options) -> Result<Value> {
    let implements = arguments.take_str("implements")?;
    let types = implements.map_or_else(types::list, |name| types::implementing(&name));
    Ok(types.iter().map(describe_type).collect())
}

fn describe_type(one: &Type) -> Value {
    Value::dict([("name", one.name.into()), ("parent", one.parent.into())])
}

pub(super) static QOM_LIST_PROPERTIES: CommandType = CommandType::returning(
    "qom-list-properties",
    &ObjectType::new(
        "q_obj_qom-list-properties-arg",
        &[Member::new("typename", ValueType::Str)],
    ),
    ValueType::Array(&ValueType::Object(&PROPERTY_INFO)),
);

pub(super) fn list_properties(mut arguments: Options) -> Result<Value> {
    let name = arguments.need_str("typename")?;
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
