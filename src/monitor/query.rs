//! The commands that describe the program and its contexts.
#![forbid(unsafe_code)]

use crate::object::{Options, Value};
use crate::{QContext, Result};

pub(super) fn version(arguments: Options) -> Result<Value> {
    arguments.finish()?;
    Ok(super::version::version())
}

pub(super) fn qcontexts(arguments: Options) -> Result<Value> {
    arguments.finish()?;
    Ok(QContext::list().iter().map(qcontext).collect())
}

pub(super) fn iothreads(arguments: Options) -> Result<Value> {
    arguments.finish()?;
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
