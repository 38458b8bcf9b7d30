//! The commands that describe the program and its contexts.
#![forbid(unsafe_code)]

use super::version::VERSION_INFO;
use crate::object::{Options, Value};
use crate::schema::{CommandType, Member, NOTHING, ObjectType, ValueType};
use crate::{QContext, Result};

pub(super) static QUERY_COMMANDS: CommandType = CommandType::returning(
    "query-commands",
    &NOTHING,
    ValueType::Array(&ValueType::Object(&COMMAND_INFO)),
);
static COMMAND_INFO: ObjectType =
    ObjectType::new("CommandInfo", &[Member::new("name", ValueType::Str)]);

pub(super) static QUERY_QMP_SCHEMA: CommandType = CommandType::returning(
    "query-qmp-schema",
    &NOTHING,
    ValueType::Array(&ValueType::Object(&SCHEMA_INFO)),
);
static SCHEMA_INFO: ObjectType = ObjectType {
    is_open: true,
    ..ObjectType::new(
        "SchemaInfo",
        &[
            Member::new("name", ValueType::Str),
            Member::new("meta-type", ValueType::Str),
        ],
    )
};

pub(super) static QUERY_VERSION: CommandType =
    CommandType::returning("query-version", &NOTHING, ValueType::Object(&VERSION_INFO));

pub(super) fn version(_: Options) -> Result<Value> {
    Ok(super::version::version())
}

pub(super) static QUERY_QCONTEXTS: CommandType = CommandType::returning(
    "query-qcontexts",
    &NOTHING,
    ValueType::Array(&ValueType::Object(&QCONTEXT_INFO)),
);
static QCONTEXT_INFO: ObjectType = ObjectType::new(
    "QContextInfo",
    &[
        Member::new("id", ValueType::Str),
        Member::new("threaded", ValueType::Bool),
        Member::new("thread-id", ValueType::Int),
        Member::new("poller", ValueType::Str),
        Member::new("poll-max-ns", ValueType::Int),
        Member::new("poll-grow", ValueType::Int),
        Member::new("poll-shrink", ValueType::Int),
    ],
);

pub(super) fn qcontexts(_: Options) -> Result<Value> {
    Ok(QContext::list().iter().map(qcontext).collect())
}

pub(super) static QUERY_IOTHREADS: CommandType = CommandType::returning(
    "query-iothreads",
    &NOTHING,
    ValueType::Array(&ValueType::Object(&IOTHREAD_INFO)),
);
static IOTHREAD_INFO: ObjectType = ObjectType::new(
    "IOThreadInfo",
    &[
        Member::new("id", ValueType::Str),
        Member::new("thread-id", ValueType::Int),
        Member::new("poll-max-ns", ValueType::Int),
        Member::new("poll-grow", ValueType::Int),
        Member::new("poll-shrink", ValueType::Int),
        Member::new("aio-max-batch", ValueType::Int),
    ],
);

pub(super) fn iothreads(_: Options) -> Result<Value> {
    let threaded = QContext::list().into_iter().filter(QContext::is_threaded);
    Ok(threaded.map(|context| iothread(&context)).collect())
}

fn qcontext(context: &QContext) -> Value {
    let polling = context.poll_params();
    Value::dict([
        ("id", context.id().into()),
        ("threaded", context.is_threaded().into()),
        ("thread-id", context.thread_id().into()),
        ("poller", context.poller().name().into()),
        ("poll-max-ns", polling.max_ns.into()),
        ("poll-grow", polling.grow.into()),
        ("poll-shrink", polling.shrink.into()),
    ])
}

/// A threaded context in the form of QEMU's schema. In that schema `aio-max-batch` 0 means the engine's default.
fn iothread(context: &QContext) -> Value {
    let polling = context.poll_params();
    Value::dict([
        ("poll-shrink", polling.shrink.into()),
        ("thread-id", context.thread_id().into()),
        ("aio-max-batch", Value::Int(0)),
        ("poll-grow", polling.grow.into()),
        ("poll-max-ns", polling.max_ns.into()),
        ("id", context.id().into()),
    ])
}
