//! The messages of the protocol: greeting, answers, events, requests.
#![forbid(unsafe_code)]

use super::version::version;
use crate::object::{Dict, Options, Value};
use crate::schema::{self, CommandType, EnumType, Member, ObjectType, ValueType};
use crate::{Error, ErrorKind, Result, json};

/// Error texts quote strings of clients. Longer texts are cut.
const ERROR_TEXT_LIMIT: usize = 2048;
/// The longest `id` that an answer repeats.
const ID_LIMIT: usize = 64 << 10;

/// The greeting, a client's first line.
pub(super) fn greeting() -> Value {
    let inner = Value::dict([
        ("version", version()),
        ("capabilities", Value::List(Vec::new())),
    ]);
    Value::dict([("QMP", inner)])
}

/// The answer to a request.
pub(super) fn answer(id: Option<Value>, outcome: Result<Value>) -> Value {
    let mut members = Dict::new();
    let id = id.map(|id| ("id".to_owned(), id));
    match outcome {
        Ok(value) => {
            members.push(("return".to_owned(), value));
            members.extend(id);
        }
        Err(error) => {
            members.extend(id);
            members.push(("error".to_owned(), error_value(&error)));
        }
    }
    Value::Dict(members)
}

/// An event, with the time since the epoch.
pub(super) fn event(name: &str, data: Dict, since_epoch: std::time::Duration) -> Value {
    let timestamp = Value::dict([
        ("seconds", since_epoch.as_secs().into()),
        (
            "microseconds",
            u64::from(since_epoch.subsec_micros()).into(),
        ),
    ]);
    let mut members = vec![
        ("timestamp".to_owned(), timestamp),
        ("event".to_owned(), name.into()),
    ];
    if !data.is_empty() {
        members.push(("data".to_owned(), Value::Dict(data)));
    }
    Value::Dict(members)
}

/// The text of a message.
pub(super) fn line(value: &Value, is_pretty: bool) -> String {
    let mut text = match is_pretty {
        true => json::to_pretty_string(value),
        false => json::to_string(value),
    };
    text.push('\n');
    text
}

fn error_value(error: &Error) -> Value {
    let class = match error.kind() {
        ErrorKind::CommandNotFound => "CommandNotFound",
        ErrorKind::DeviceNotFound => "DeviceNotFound",
        ErrorKind::DeviceNotActive => "DeviceNotActive",
        _ => "GenericError",
    };
    let mut desc = error.to_string();
    if desc.len() > ERROR_TEXT_LIMIT {
        desc.truncate(desc.floor_char_boundary(ERROR_TEXT_LIMIT));
        desc.push_str("...");
    }
    Value::dict([("class", class.into()), ("desc", desc.into())])
}

/// A request.
#[derive(Debug)]
pub(super) struct QmpRequest {
    /// The command's name.
    pub(super) execute: String,
    /// Its arguments.
    pub(super) arguments: Options,
}

/// A message of a client.
#[derive(Debug)]
pub(super) struct Received {
    /// The `id`, which the answer repeats even if the request is malformed.
    pub(super) id: Option<Value>,
    pub(super) request: Result<QmpRequest>,
}

/// Decodes a message of a client.
pub(super) fn decode(value: Value) -> Received {
    let Value::Dict(mut members) = value else {
        return Received {
            id: None,
            request: Err(invalid("QMP input must be a JSON object")),
        };
    };
    let position = members.iter().position(|(key, _)| key == "id");
    let id = position.map(|index| members.remove(index).1);
    if id
        .as_ref()
        .is_some_and(|id| json::to_string(id).len() > ID_LIMIT)
    {
        return Received {
            id: None,
            request: Err(invalid("QMP input member 'id' is longer than 65536 bytes")),
        };
    }
    Received {
        id,
        request: body(members),
    }
}

fn body(members: Dict) -> Result<QmpRequest> {
    let mut execute = None;
    let mut arguments = Dict::new();
    for (key, value) in members {
        match (key.as_str(), value) {
            ("execute", Value::Str(name)) => execute = Some(name),
            ("arguments", Value::Dict(given)) => arguments = given,
            ("execute", _) => return Err(invalid("QMP input member 'execute' must be a string")),
            ("arguments", _) => {
                return Err(invalid("QMP input member 'arguments' must be an object"));
            }
            _ => {
                return Err(Error::new(
                    ErrorKind::Protocol,
                    format!("QMP input member '{key}' is unexpected"),
                ));
            }
        }
    }
    Ok(QmpRequest {
        execute: execute.ok_or_else(|| invalid("QMP input lacks member 'execute'"))?,
        arguments: Options::from_dict(arguments),
    })
}

pub(super) static QMP_CAPABILITIES: CommandType = CommandType::new(
    "qmp_capabilities",
    &ObjectType::new(
        "q_obj_qmp_capabilities-arg",
        &[Member::optional(
            "enable",
            ValueType::Array(&ValueType::Enum(EnumType::new("QMPCapability", &["oob"]))),
        )],
    ),
);

/// Checks the arguments of `qmp_capabilities`. The server has no capabilities, so none can be enabled.
pub(super) fn negotiate(arguments: Options) -> Result<Value> {
    let mut arguments = schema::check(QMP_CAPABILITIES.arguments, arguments)?;
    match arguments.take("enable") {
        Some(Value::List(wanted)) if !wanted.is_empty() => {
            Err(invalid("Capability oob not available"))
        }
        _ => Ok(Value::empty()),
    }
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::Protocol, message)
}
