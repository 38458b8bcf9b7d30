//! The commands that every monitor has: introspection, the object tree, contexts, block nodes. They are put together here.
#![forbid(unsafe_code)]

use super::command::Commands;
use super::{message, qom, query};
use crate::object::Value;

pub(super) fn commands() -> Commands {
    let mut commands = Commands::new();
    // The session executes the first one itself, and the table of commands the next two.
    commands.add(&message::QMP_CAPABILITIES, |_| Ok(Value::empty()));
    commands.add(&query::QUERY_COMMANDS, |_| Ok(Value::empty()));
    commands.add(&query::QUERY_QMP_SCHEMA, |_| Ok(Value::empty()));
    commands.add(&query::QUERY_VERSION, query::version);
    commands.add(&query::QUERY_QCONTEXTS, query::qcontexts);
    commands.add(&query::QUERY_IOTHREADS, query::iothreads);
    commands.add(&qom::QOM_LIST, qom::list);
    commands.add(&qom::QOM_GET, qom::get);
    commands.add(&qom::QOM_SET, qom::set);
    commands.add(&qom::QOM_LIST_TYPES, qom::list_types);
    commands.add(&qom::QOM_LIST_PROPERTIES, qom::list_properties);
    commands.add(&qom::OBJECT_ADD, qom::object_add);
    commands.add(&qom::OBJECT_DEL, qom::object_del);
    #[cfg(feature = "vhost-user")]
    {
        super::block::add(&mut commands);
        super::export::add(&mut commands);
        super::job::add(&mut commands);
        super::nbd::add(&mut commands);
    }
    commands
}
