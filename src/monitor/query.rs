//! The commands that tell about the program and its contexts.
#![forbid(unsafe_code)]

use super::command::Commands;
use crate::object::Value;
use crate::{QContext, Result};

pub(super) fn add_to(commands: &mut Commands) {
    commands.add("query-version", |arguments| {
        arguments.finish().map(|()| version())
    });
    commands.add("query-qcontexts", |arguments| {
        arguments.finish()?;
        QContext::list().iter().map(describe).collect()
    });
    commands.add("query-iothreads", |arguments| {
        arguments.finish()?;
        let threaded = QContext::list().into_iter().filter(QContext::is_threaded);
        Ok(threaded.map(|context| iothread(&context)).collect())
    });
}

/// Our version, in the member where clients look for QEMU's.
pub(super) fn version() -> Value {
    let number = |text: &str| Value::from(text.parse::<i64>().unwrap_or(0));
    let numbers = Value::dict([
        ("micro", number(env!("CARGO_PKG_VERSION_PATCH"))),
        ("minor", number(env!("CARGO_PKG_VERSION_MINOR"))),
        ("major", number(env!("CARGO_PKG_VERSION_MAJOR"))),
    ]);
    let package = concat!("qcontext ", env!("CARGO_PKG_VERSION"));
    Value::dict([("qemu", numbers), ("package", package.into())])
}

fn describe(context: &QContext) -> Result<Value> {
    let polling = context.poll_params();
    Ok(Value::dict([
        ("id", context.id().into()),
        ("threaded", context.is_threaded().into()),
        ("thread-id", context.thread_id().into()),
        ("poller", context.poller().name().into()),
        ("poll-max-ns", polling.max_ns.into()),
        ("poll-grow", polling.grow.into()),
        ("poll-shrink", polling.shrink.into()),
    ]))
}

/// As QEMU's schema wants it; a batch of 0 is QEMU's way to say that the engine decides.
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
