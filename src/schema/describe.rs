//! The types as `query-qmp-schema` shows them. The form is QEMU's (qapi/introspect.json); names of types are ours.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::{AlternateType, Case, CommandType, EnumType, EventType, Member, ObjectType, ValueType};
use crate::object::{Dict, Value};

/// Describes commands and events, and all types that they use.
pub fn describe<'a>(
    commands: impl Iterator<Item = &'a CommandType>,
    events: impl Iterator<Item = &'a EventType>,
) -> Value {
    let mut schema = Schema::default();
    for command in commands {
        let arguments = schema.object(command.arguments);
        let returns = schema.name(&command.returns);
        schema.add(
            command.name,
            "command",
            [("arg-type", arguments.into()), ("ret-type", returns.into())],
        );
    }
    for event in events {
        let data = schema.object(event.data);
        schema.add(event.name, "event", [("arg-type", data.into())]);
    }
    Value::List(schema.entries)
}

/// The entries so far. Each type is described once.
#[derive(Default)]
struct Schema {
    entries: Vec<Value>,
    known: BTreeSet<String>,
}

impl Schema {
    fn add<const N: usize>(&mut self, name: &str, meta_type: &str, rest: [(&str, Value); N]) {
        let mut entry: Dict = vec![
            ("name".to_owned(), name.into()),
            ("meta-type".to_owned(), meta_type.into()),
        ];
        let rest = rest.into_iter();
        entry.extend(rest.map(|(key, value)| (key.to_owned(), value)));
        self.entries.push(Value::Dict(entry));
    }

    /// Whether the type of this name is still to be described.
    fn is_new(&mut self, name: &str) -> bool {
        self.known.insert(name.to_owned())
    }

    /// The name of a type, which is described if it was not yet.
    fn name(&mut self, of: &ValueType) -> String {
        match of {
            ValueType::Str => self.builtin("str", "string"),
            ValueType::Bool => self.builtin("bool", "boolean"),
            ValueType::Int | ValueType::Uint(_) | ValueType::Size => self.builtin("int", "int"),
            ValueType::Number => self.builtin("number", "number"),
            ValueType::Null => self.builtin("null", "null"),
            ValueType::Any => self.builtin("any", "value"),
            ValueType::Enum(values) => self.enumeration(values),
            ValueType::Array(element) => self.array(element),
            ValueType::Object(object) => self.object(object),
            ValueType::Alternate(alternate) => self.alternate(alternate),
        }
    }

    fn builtin(&mut self, name: &str, json_type: &str) -> String {
        if self.is_new(name) {
            self.add(name, "builtin", [("json-type", json_type.into())]);
        }
        name.to_owned()
    }

    fn enumeration(&mut self, of: &EnumType) -> String {
        if self.is_new(of.name) {
            let values = of.values();
            let member = |value: &&str| Value::dict([("name", (*value).into())]);
            let members: Value = values.iter().map(member).collect();
            let values: Value = values.iter().map(|value| (*value).into()).collect();
            self.add(of.name, "enum", [("members", members), ("values", values)]);
        }
        of.name.to_owned()
    }

    fn array(&mut self, element: &ValueType) -> String {
        let element = self.name(element);
        let name = format!("[{element}]");
        if self.is_new(&name) {
            self.add(&name, "array", [("element-type", element.into())]);
        }
        name
    }

    fn alternate(&mut self, of: &AlternateType) -> String {
        if self.is_new(of.name) {
            let branches = of.branches.iter();
            let member = |branch: &ValueType| Value::dict([("type", self.name(branch).into())]);
            let members: Value = branches.map(member).collect();
            self.add(of.name, "alternate", [("members", members)]);
        }
        of.name.to_owned()
    }

    fn object(&mut self, of: &ObjectType) -> String {
        if !self.is_new(of.name) {
            return of.name.to_owned();
        }
        let mut members = Vec::new();
        let Some(variants) = &of.variants else {
            members.extend(of.members.iter().map(|member| self.member(member)));
            self.add(
                of.name,
                "object",
                [("members", members.into_iter().collect())],
            );
            return of.name.to_owned();
        };
        members.push(self.member(&variants.tag_member()));
        members.extend(of.members.iter().map(|member| self.member(member)));
        let cases = (variants.cases)();
        let cases: Value = cases.iter().map(|case| self.case(of.name, case)).collect();
        let rest = [
            ("members", members.into_iter().collect()),
            ("tag", variants.tag.into()),
            ("variants", cases),
        ];
        self.add(of.name, "object", rest);
        of.name.to_owned()
    }

    fn case(&mut self, of: &str, case: &Case) -> Value {
        let name = match case.members.is_empty() {
            true => "q_empty".to_owned(),
            false => format!("{of}-{}", case.tag),
        };
        if self.is_new(&name) {
            let members: Value = case.members.iter().map(|one| self.member(one)).collect();
            self.add(&name, "object", [("members", members)]);
        }
        Value::dict([("case", case.tag.into()), ("type", name.into())])
    }

    fn member(&mut self, member: &Member) -> Value {
        let of = self.name(&member.value);
        let mut entry: Dict = vec![
            ("name".to_owned(), member.name.into()),
            ("type".to_owned(), of.into()),
        ];
        if member.is_optional {
            entry.push(("default".to_owned(), Value::Null));
        }
        Value::Dict(entry)
    }
}
