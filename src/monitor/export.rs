//! The commands of exports.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use super::command::Commands;
use super::event::emit;
use super::reply::Reply;
use crate::Result;
use crate::export::{self, EXPORT_OPTIONS, ExportInfo};
use crate::object::{Options, Value};
use crate::schema::{CommandType, EnumType, EventType, Member, NOTHING, ObjectType, ValueType};

pub(super) fn add(commands: &mut Commands) {
    commands.add(&BLOCK_EXPORT_ADD, |arguments| {
        export::add(arguments)?;
        Ok(Value::empty())
    });
    commands.add_later(&BLOCK_EXPORT_DEL, |mut arguments, reply| {
        match arguments.need_str("id") {
            Ok(id) => delete(&id, &mut arguments, reply),
            Err(error) => reply.done(Err(error)),
        }
    });
    commands.add(&QUERY_BLOCK_EXPORTS, query_block_exports);
    commands.add_event(&BLOCK_EXPORT_DELETED);
}

static BLOCK_EXPORT_ADD: CommandType = CommandType::new("block-export-add", &EXPORT_OPTIONS);

pub(super) const REMOVE_MODE: EnumType = EnumType::new("BlockExportRemoveMode", &["safe", "hard"]);

static BLOCK_EXPORT_DEL: CommandType = CommandType::new(
    "block-export-del",
    &ObjectType::new(
        "q_obj_block-export-del-arg",
        &[
            Member::new("id", ValueType::Str),
            Member::optional("mode", ValueType::Enum(REMOVE_MODE)),
        ],
    ),
);

/// Begins the end of an export. The answer comes after the end, unless that waits for clients.
///
/// Both modes end the connections of vhost-user-blk. In QEMU, too, such an export with a front end is deleted with `safe`.
pub(super) fn delete(id: &str, arguments: &mut Options, reply: Reply) {
    let is_hard = match arguments.take_str("mode") {
        Ok(mode) => mode.as_deref() == Some("hard"),
        Err(error) => return reply.done(Err(error)),
    };
    let waits = export::list()
        .iter()
        .any(|export| export.id == id && export.ends_at_once);
    let reply = Arc::new(Mutex::new(Some(reply)));
    let answer = Arc::clone(&reply);
    let gone = move |ended: &str| {
        emit_export_deleted(ended);
        complete(&answer, Ok(()));
    };
    match export::remove(id, is_hard, gone) {
        Ok(()) if waits => {}
        outcome => complete(&reply, outcome),
    }
}

/// Completes a reply, if that was not done yet.
fn complete(reply: &Mutex<Option<Reply>>, outcome: Result<()>) {
    let reply = reply.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(reply) = reply {
        reply.done(outcome);
    }
}

static QUERY_BLOCK_EXPORTS: CommandType = CommandType::returning(
    "query-block-exports",
    &NOTHING,
    ValueType::Array(&ValueType::Object(&ObjectType::new(
        "BlockExportInfo",
        &[
            Member::new("id", ValueType::Str),
            Member::new("type", ValueType::Str),
            Member::new("node-name", ValueType::Str),
            Member::new("shutting-down", ValueType::Bool),
        ],
    ))),
);

/// The newest export comes first, as in QEMU.
fn query_block_exports(_: Options) -> Result<Value> {
    Ok(export::list().iter().rev().map(describe).collect())
}

fn describe(export: &ExportInfo) -> Value {
    Value::dict([
        ("node-name", export.node.as_str().into()),
        ("shutting-down", export.is_ending.into()),
        ("type", export.kind.into()),
        ("id", export.id.as_str().into()),
    ])
}

static BLOCK_EXPORT_DELETED: EventType = EventType::new(
    "BLOCK_EXPORT_DELETED",
    &ObjectType::new(
        "q_obj_BLOCK_EXPORT_DELETED-arg",
        &[Member::new("id", ValueType::Str)],
    ),
);

/// Says that an export is gone. Any thread may call it.
pub fn emit_export_deleted(id: &str) {
    emit(&BLOCK_EXPORT_DELETED, vec![("id".to_owned(), id.into())]);
}
