//! Who wants to know when a guest fills its disk: `block-set-write-threshold`.
#![forbid(unsafe_code)]

use crate::block::{Node, drain};
use crate::monitor::event::emit;
use crate::monitor::reply::Reply;
use crate::object::{Options, Value};
use crate::schema::{CommandType, EventType, Member, ObjectType, ValueType};
use crate::{Error, ErrorKind, Result};

pub(super) static SET_WRITE_THRESHOLD: CommandType = CommandType::new(
    "block-set-write-threshold",
    &ObjectType::new(
        "q_obj_block-set-write-threshold-arg",
        &[
            Member::new("node-name", ValueType::Str),
            Member::new("write-threshold", ValueType::Uint(64)),
        ],
    ),
);

pub(super) static WRITE_THRESHOLD: EventType = EventType::new(
    "BLOCK_WRITE_THRESHOLD",
    &ObjectType::new(
        "q_obj_BLOCK_WRITE_THRESHOLD-arg",
        &[
            Member::new("node-name", ValueType::Str),
            Member::new("amount-exceeded", ValueType::Uint(64)),
            Member::new("write-threshold", ValueType::Uint(64)),
        ],
    ),
);

/// Queues open their ways anew, so that writes are looked at from now on, or no longer.
pub(super) fn set(arguments: Options, reply: Reply) {
    let (node, threshold) = match parse(arguments) {
        Ok(parsed) => parsed,
        Err(error) => return reply.done(Err(error)),
    };
    let draining = drain([&node]);
    glib::MainContext::default().spawn_local(async move {
        let drained = draining.await;
        let name = node.name().to_owned();
        node.set_write_threshold(threshold, move |exceeded, offset| {
            report(&name, exceeded, offset);
        });
        drop(drained);
        reply.done(Ok(()));
    });
}

fn parse(mut arguments: Options) -> Result<(std::sync::Arc<Node>, u64)> {
    let name = arguments.need_str("node-name")?;
    let node = Node::find(&name).ok().filter(|node| !node.is_drive());
    let node = node.ok_or_else(|| {
        let message = format!("Device '{name}' not found");
        Error::new(ErrorKind::NotFound, message)
    })?;
    let threshold = match arguments.take("write-threshold") {
        Some(Value::Int(threshold)) => threshold.cast_unsigned(),
        Some(Value::Uint(threshold)) => threshold,
        _ => return Err(arguments.bad("write-threshold", "integer")),
    };
    Ok((node, threshold))
}

/// Any thread may call it.
fn report(name: &str, exceeded: u64, offset: u64) {
    emit(
        &WRITE_THRESHOLD,
        vec![
            ("node-name".to_owned(), name.into()),
            ("amount-exceeded".to_owned(), exceeded.into()),
            ("write-threshold".to_owned(), offset.into()),
        ],
    );
}
