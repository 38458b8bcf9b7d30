//! The subcommands that read and change the object tree of a running `qctx`.
#![forbid(unsafe_code)]

use std::env;
use std::fmt::Write;
use std::ops::RangeInclusive;

use qcontext::json;
use qcontext::object::Value;
use qcontext::{Error, ErrorKind, Result};

use super::client::Client;
use super::failure::Failure;
use super::help;
use super::output::print;

/// A subcommand with its operands.
#[derive(Debug)]
pub(super) struct Subcommand {
    command: &'static str,
    socket: String,
    operands: Vec<String>,
}

/// A subcommand's name and operands.
struct Usage {
    name: &'static str,
    operands: &'static str,
    /// How many operands it takes.
    count: RangeInclusive<usize>,
}

const USAGES: [Usage; 4] = [
    Usage {
        name: "qom-list",
        operands: "PATH",
        count: 1..=1,
    },
    Usage {
        name: "qom-get",
        operands: "PATH.PROPERTY",
        count: 1..=1,
    },
    Usage {
        name: "qom-set",
        operands: "PATH.PROPERTY VALUE",
        count: 2..=2,
    },
    Usage {
        name: "qom-tree",
        operands: "[PATH]",
        count: 0..=1,
    },
];

/// Parses a command line that has a subcommand. Returns `None` if it has none.
pub(super) fn parse(arguments: &[String]) -> Result<Option<Subcommand>, Failure> {
    let mut socket = None;
    let mut words = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "-s" | "--socket" => {
                let value = rest.next();
                let value = value.ok_or_else(|| Failure::new(argument, "requires an argument"))?;
                socket = Some(value.as_str());
            }
            joined if joined.starts_with("--socket=") => {
                socket = joined.strip_prefix("--socket=");
            }
            "-h" | "--help" if !words.is_empty() => {
                print(&help::text());
                std::process::exit(0);
            }
            _ if words.is_empty() && !USAGES.iter().any(|known| known.name == argument) => {
                return Ok(None);
            }
            // The first word is the subcommand; a value such as -1 may look like an option.
            option if is_option(option) => {
                return Err(Failure::new(option, "invalid option").with_hint(help::HINT));
            }
            _ => words.push(argument.clone()),
        }
    }
    if words.is_empty() {
        return Ok(None);
    }
    let socket = socket
        .map(str::to_owned)
        .or_else(|| env::var("QMP_SOCKET").ok());
    check(words, socket).map(Some)
}

fn is_option(argument: &str) -> bool {
    let name = argument.strip_prefix('-');
    name.is_some_and(|name| !name.starts_with(|first: char| first.is_ascii_digit()))
}

fn check(mut words: Vec<String>, socket: Option<String>) -> Result<Subcommand, Failure> {
    let operands = words.split_off(1);
    let known = USAGES.iter().find(|known| known.name == words[0]);
    let usage =
        known.ok_or_else(|| Failure::new(&words[0], "unknown command").with_hint(help::HINT))?;
    let command = usage.name;
    if !usage.count.contains(&operands.len()) {
        let message = format!("usage: qctx {command} [-s SOCKET] {}", usage.operands);
        return Err(Failure::new(command, message));
    }
    let socket = socket.filter(|socket| !socket.is_empty()).ok_or_else(|| {
        Failure::new(
            command,
            "no QMP socket given: use -s SOCKET or set QMP_SOCKET",
        )
    })?;
    Ok(Subcommand {
        command,
        socket,
        operands,
    })
}

impl Subcommand {
    /// Executes the subcommand and prints the answer.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let text = self
            .ask()
            .map_err(|error| Failure::at(self.command, &error))?;
        print(&text);
        Ok(())
    }

    fn ask(&self) -> Result<String> {
        let mut client = Client::connect(&self.socket)?;
        let operand = |index: usize| self.operands.get(index).map(String::as_str);
        match self.command {
            "qom-list" => list(&mut client, operand(0).unwrap_or("/")),
            "qom-get" => get(&mut client, operand(0).unwrap_or_default()),
            "qom-set" => set(
                &mut client,
                operand(0).unwrap_or_default(),
                operand(1).unwrap_or_default(),
            ),
            _ => tree(&mut client, operand(0).unwrap_or("/")),
        }
    }
}

/// One entry of `qom-list`.
struct ListedName {
    name: String,
    type_name: String,
}

impl ListedName {
    fn is_child(&self) -> bool {
        self.type_name.starts_with("child<")
    }
}

/// The children and then the properties at `path`, each sorted.
fn entries(client: &mut Client, path: &str) -> Result<Vec<ListedName>> {
    let listed = client.execute("qom-list", Value::dict([("path", path.into())]))?;
    let Value::List(items) = listed else {
        return Err(unexpected());
    };
    let entry = |item: &Value| {
        Some(ListedName {
            name: item.member("name")?.as_str()?.to_owned(),
            type_name: item.member("type")?.as_str()?.to_owned(),
        })
    };
    let entries: Option<Vec<ListedName>> = items.iter().map(entry).collect();
    let mut entries = entries.ok_or_else(unexpected)?;
    entries.sort_by(|a, b| (!a.is_child(), &a.name).cmp(&(!b.is_child(), &b.name)));
    Ok(entries)
}

fn list(client: &mut Client, path: &str) -> Result<String> {
    let mut text = String::new();
    for entry in entries(client, path)? {
        let mark = if entry.is_child() { "/" } else { "" };
        line(&mut text, format_args!("{}{mark}", entry.name));
    }
    Ok(text)
}

fn get(client: &mut Client, operand: &str) -> Result<String> {
    let (path, property) = split(operand)?;
    let mut text = bare(&value_of(client, path, property)?);
    text.push('\n');
    Ok(text)
}

/// Sets a property. The value of a string property is taken literally, of another property as JSON.
fn set(client: &mut Client, operand: &str, text: &str) -> Result<String> {
    let (path, property) = split(operand)?;
    let listed = entries(client, path)?;
    let found = listed.iter().find(|entry| entry.name == property);
    let value = match found {
        Some(entry) if entry.type_name == "string" => text.into(),
        Some(entry) if entry.type_name == "bool" => boolean(text),
        _ => json::parse(text).unwrap_or_else(|_| text.into()),
    };
    let arguments = Value::dict([
        ("path", path.into()),
        ("property", property.into()),
        ("value", value),
    ]);
    client.execute("qom-set", arguments)?;
    Ok(String::new())
}

fn boolean(text: &str) -> Value {
    match text {
        "on" | "yes" | "true" | "y" => Value::Bool(true),
        "off" | "no" | "false" | "n" => Value::Bool(false),
        _ => text.into(),
    }
}

/// All objects at and below `top` with their properties.
fn tree(client: &mut Client, top: &str) -> Result<String> {
    let mut text = String::new();
    let mut pending = vec![top.to_owned()];
    while let Some(path) = pending.pop() {
        line(&mut text, format_args!("{path}"));
        let (children, properties): (Vec<ListedName>, Vec<ListedName>) = entries(client, &path)?
            .into_iter()
            .partition(ListedName::is_child);
        for property in properties {
            let shown = value_of(client, &path, &property.name)
                .map_or_else(|error| format!("<{error}>"), |value| bare(&value));
            let ListedName { name, type_name } = property;
            line(&mut text, format_args!("  {name}: {shown} ({type_name})"));
        }
        let parent = path.trim_end_matches('/');
        let below = children.iter().rev();
        pending.extend(below.map(|child| format!("{parent}/{}", child.name)));
    }
    Ok(text)
}

fn value_of(client: &mut Client, path: &str, property: &str) -> Result<Value> {
    let arguments = Value::dict([("path", path.into()), ("property", property.into())]);
    client.execute("qom-get", arguments)
}

/// Path and property; the path may have dots in it, the property has none.
fn split(operand: &str) -> Result<(&str, &str)> {
    operand.rsplit_once('.').ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidArgument,
            format!("'{operand}' is not of the form PATH.PROPERTY"),
        )
    })
}

/// A string as it is, another value as JSON.
fn bare(value: &Value) -> String {
    match value {
        Value::Str(text) => text.clone(),
        _ => json::to_string(value),
    }
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{content}");
}

fn unexpected() -> Error {
    Error::new(ErrorKind::Protocol, "the server answered something else")
}
