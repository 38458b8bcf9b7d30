//! The commands of the NBD server.
#![forbid(unsafe_code)]

use super::command::Commands;
use super::export::{REMOVE_MODE, delete, emit_export_deleted};
use crate::export::{self, NBD_SERVER_LEGACY_OPTIONS};
use crate::object::Value;
use crate::schema::{CommandType, Member, NOTHING, ObjectType, ValueType};

pub(super) fn add(commands: &mut Commands) {
    commands.add(&NBD_SERVER_START, |arguments| {
        export::start_nbd_server_legacy(arguments)?;
        Ok(Value::empty())
    });
    commands.add_later(&NBD_SERVER_STOP, |_, reply| {
        export::stop_nbd_server(emit_export_deleted, move |outcome| reply.done(outcome));
    });
    commands.add(&NBD_SERVER_ADD, |arguments| {
        export::add_nbd(arguments)?;
        Ok(Value::empty())
    });
    commands.add_later(&NBD_SERVER_REMOVE, |mut arguments, reply| {
        let id = arguments.need_str("name");
        match id.and_then(|id| export::check_nbd(&id).map(|()| id)) {
            Ok(id) => delete(&id, &mut arguments, reply),
            Err(error) => reply.done(Err(error)),
        }
    });
}

static NBD_SERVER_START: CommandType =
    CommandType::new("nbd-server-start", &NBD_SERVER_LEGACY_OPTIONS);

static NBD_SERVER_STOP: CommandType = CommandType::new("nbd-server-stop", &NOTHING);

static NBD_SERVER_ADD: CommandType = CommandType::new(
    "nbd-server-add",
    &ObjectType::new(
        "NbdServerAddOptions",
        &[
            Member::optional("name", ValueType::Str),
            Member::optional("description", ValueType::Str),
            Member::new("device", ValueType::Str),
            Member::optional("writable", ValueType::Bool),
            Member::optional("bitmap", ValueType::Str),
        ],
    ),
);

static NBD_SERVER_REMOVE: CommandType = CommandType::new(
    "nbd-server-remove",
    &ObjectType::new(
        "q_obj_nbd-server-remove-arg",
        &[
            Member::new("name", ValueType::Str),
            Member::optional("mode", ValueType::Enum(REMOVE_MODE)),
        ],
    ),
);
