//! The commands of exports.
#![forbid(unsafe_code)]

use super::command::Commands;
use super::event::emit;
use crate::Result;
use crate::export::{self, EXPORT_OPTIONS, ExportInfo};
use crate::object::{Options, Value};
use crate::schema::{CommandType, EnumType, EventType, Member, NOTHING, ObjectType, ValueType};

pub(super) fn add(commands: &mut Commands) {
    commands.add(&BLOCK_EXPORT_ADD, |arguments| {
        export::add(arguments)?;
        Ok(Value::empty())
    });
    commands.add(&BLOCK_EXPORT_DEL, block_export_del);
    commands.add(&QUERY_BLOCK_EXPORTS, query_block_exports);
    commands.add_event(&BLOCK_EXPORT_DELETED);
}

static BLOCK_EXPORT_ADD: CommandType = CommandType::new("block-export-add", &EXPORT_OPTIONS);

static BLOCK_EXPORT_DEL: CommandType = CommandType::new(
    "block-export-del",
    &ObjectType::new(
        "q_obj_block-export-del-arg",
        &[
            Member::new("id", ValueType::Str),
            Member::optional(
                "mode",
                ValueType::Enum(EnumType::new("BlockExportRemoveMode", &["safe", "hard"])),
            ),
        ],
    ),
);

/// Both modes end the connections. In QEMU, too, a vhost-user-blk export with a front end is deleted with `safe`.
fn block_export_del(mut arguments: Options) -> Result<Value> {
    export::remove(&arguments.need_str("id")?, emit_export_deleted)?;
    Ok(Value::empty())
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
