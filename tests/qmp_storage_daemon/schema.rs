//! `query-qmp-schema`: it describes what the dispatcher takes, and is no stricter than that of QEMU's storage daemon.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use qcontext::object::Value;
use support::process::qctx;

use super::both::{Both, Daemon, plain, with};

/// The answer of `query-qmp-schema`, by name.
struct Schema(BTreeMap<String, Value>);

impl Schema {
    fn of(daemon: &mut Daemon) -> Schema {
        let answer = daemon.ask(&plain("query-qmp-schema"));
        let mut types = BTreeMap::new();
        for entry in list(answer.member("return").unwrap()) {
            let name = text(entry, "name").to_owned();
            assert!(
                types.insert(name, entry.clone()).is_none(),
                "{entry:?} twice"
            );
        }
        Schema(types)
    }

    fn get(&self, name: &str) -> &Value {
        let found = self.0.get(name);
        found.unwrap_or_else(|| panic!("type '{name}' is not described"))
    }

    fn named(&self, meta_type: &str) -> Vec<&str> {
        let all = self.0.iter();
        let named = all.filter(|(_, entry)| text(entry, "meta-type") == meta_type);
        named.map(|(name, _)| name.as_str()).collect()
    }

    /// The members of an object, all cases included: name, type, whether it may be absent.
    fn members(&self, name: &str) -> Vec<(&str, &str, bool)> {
        let entry = self.get(name);
        let own = list(entry.member("members").unwrap()).iter();
        let own = own.map(|member| {
            let is_optional = member.member("default").is_some();
            (text(member, "name"), text(member, "type"), is_optional)
        });
        own.collect()
    }

    /// The members of one case of an object.
    fn case(&self, name: &str, tag: &str) -> Option<Vec<(&str, &str, bool)>> {
        let mut cases = list(self.get(name).member("variants")?).iter();
        let case = cases.find(|case| text(case, "case") == tag)?;
        Some(self.members(text(case, "type")))
    }

    fn meta_type(&self, name: &str) -> &str {
        text(self.get(name), "meta-type")
    }
}

fn list(value: &Value) -> &[Value] {
    match value {
        Value::List(items) => items,
        other => panic!("{other:?} is no list"),
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.member(name).and_then(Value::as_str).unwrap()
}

fn ours(arguments: &[&str]) -> Daemon {
    Daemon::start(
        &qctx(),
        &["--qmp", "unix:qmp.sock,server=on,wait=off"],
        arguments,
    )
}

#[test]
fn the_schema_describes_each_command_and_every_type_that_it_names() {
    let mut daemon = ours(&[]);
    let schema = Schema::of(&mut daemon);
    let answer = daemon.ask(&plain("query-commands"));
    let commands = list(answer.member("return").unwrap()).iter();
    let mut commands: Vec<_> = commands.map(|entry| text(entry, "name")).collect();
    commands.sort_unstable();
    assert_eq!(schema.named("command"), commands);
    assert!(schema.named("event").contains(&"BLOCK_EXPORT_DELETED"));
    for entry in schema.0.values() {
        for key in ["arg-type", "ret-type", "element-type"] {
            if let Some(name) = entry.member(key).and_then(Value::as_str) {
                schema.get(name);
            }
        }
        for key in ["members", "variants"] {
            let parts = entry.member(key).map(list).unwrap_or_default().iter();
            let named = parts.filter_map(|part| part.member("type").and_then(Value::as_str));
            named.for_each(|name| {
                schema.get(name);
            });
        }
    }
}

/// A value of that type, and one of another type, for the types of which there is one.
fn values(schema: &Schema, name: &str) -> Option<(&'static str, &'static str)> {
    match (schema.meta_type(name), name) {
        (_, "str") => Some((r#""x""#, "[]")),
        (_, "int") => Some(("1", "[]")),
        (_, "bool") => Some(("true", "[]")),
        ("enum", _) => Some((r#""nosuch""#, "[]")),
        ("array", _) => Some(("[]", "5")),
        _ => None,
    }
}

#[test]
fn the_dispatcher_refuses_what_the_schema_does_not_describe() {
    let mut daemon = ours(&[]);
    let schema = Schema::of(&mut daemon);
    let mut tried = 0;
    for command in schema.named("command") {
        // The session executes it itself, in another phase.
        if command == "qmp_capabilities" {
            continue;
        }
        let arguments = text(schema.get(command), "arg-type");
        if schema.get(arguments).member("tag").is_some() {
            continue;
        }
        let members = schema.members(arguments);
        for &(wrong, kind, _) in &members {
            let Some((_, bad)) = values(&schema, kind) else {
                continue;
            };
            let needed = members
                .iter()
                .filter(|(name, _, is_optional)| !is_optional && *name != wrong);
            let needed = needed.filter_map(|(name, type_name, _)| {
                Some(format!(r#""{name}":{}"#, values(&schema, type_name)?.0))
            });
            let all: Vec<_> = needed.chain([format!(r#""{wrong}":{bad}"#)]).collect();
            let answer = daemon.ask(&with(command, &all.join(",")));
            let error = answer
                .member("error")
                .unwrap_or_else(|| panic!("{command} {all:?}"));
            let expected = format!("Invalid parameter type for '{wrong}', expected: ");
            let is_refused = text(error, "desc").starts_with(&expected)
                // An enumeration that comes before.
                || text(error, "desc").contains("does not accept value 'nosuch'");
            assert!(is_refused, "{command} {all:?} {error:?}");
            tried += 1;
        }
    }
    assert!(tried >= 20, "{tried}");
}

#[test]
fn the_schema_asks_no_more_and_answers_no_less_than_the_storage_daemons() {
    let Some(mut both) = Both::start(&[]) else {
        return;
    };
    let (theirs, ours) = (Schema::of(&mut both.theirs), Schema::of(&mut both.ours));
    let ours_too = |name: &&str| ours.0.contains_key(*name);
    let shared: Vec<_> = theirs
        .named("command")
        .into_iter()
        .filter(ours_too)
        .collect();
    assert!(shared.len() > 20, "{shared:?}");
    let mut pairs = Vec::new();
    for command in shared {
        let of = |schema: &Schema, key: &str| text(schema.get(command), key).to_owned();
        let arguments = (of(&theirs, "arg-type"), of(&ours, "arg-type"));
        stricter(command, (&theirs, &ours), (&arguments.0, &arguments.1));
        pairs.push((command, of(&theirs, "ret-type"), of(&ours, "ret-type")));
    }
    for (command, their_answer, our_answer) in &pairs {
        less(command, (&theirs, &ours), (their_answer, our_answer), 0);
    }
}

/// Checks that what is mandatory for us is so for them, in all cases of an object that both have.
fn stricter(command: &str, (theirs, ours): (&Schema, &Schema), (their, our): (&str, &str)) {
    let check = |all: &[(&str, &str, bool)], own: &[(&str, &str, bool)]| {
        for (name, _, _) in own.iter().filter(|(_, _, is_optional)| !is_optional) {
            let known = all.iter().find(|(known, _, _)| known == name);
            assert!(
                matches!(known, Some((_, _, false))),
                "{command}: {name} is mandatory"
            );
        }
    };
    check(&theirs.members(their), &ours.members(our));
    let variants = ours
        .get(our)
        .member("variants")
        .map(list)
        .unwrap_or_default();
    for case in variants.iter().map(|case| text(case, "case")) {
        if let Some(their_case) = theirs.case(their, case) {
            check(&their_case, &ours.case(our, case).unwrap());
        }
    }
}

/// Checks that an answer has all that theirs must have, of the same kind.
fn less(command: &str, (theirs, ours): (&Schema, &Schema), (their, our): (&str, &str), depth: u32) {
    let (kind, our_kind) = (theirs.meta_type(their), ours.meta_type(our));
    // The schema about itself is shorter, and one answer may be anything.
    if depth > 5
        || our == "any"
        || command == "query-qmp-schema"
        || (kind, our_kind) == ("enum", "builtin")
    {
        return;
    }
    assert_eq!(kind, our_kind, "{command}: {our}");
    if kind == "array" {
        let element =
            |schema: &Schema, name: &str| text(schema.get(name), "element-type").to_owned();
        let (their, our) = (element(theirs, their), element(ours, our));
        return less(command, (theirs, ours), (&their, &our), depth + 1);
    }
    if kind != "object" {
        return;
    }
    let members = ours.members(our);
    for (name, their_type, _) in theirs
        .members(their)
        .iter()
        .filter(|(_, _, is_optional)| !is_optional)
    {
        let known = members.iter().find(|(known, _, _)| known == name);
        let (_, our_type, _) = known.unwrap_or_else(|| panic!("{command}: {name} is absent"));
        less(command, (theirs, ours), (their_type, our_type), depth + 1);
    }
}
