//! The commands that every monitor has: introspection, the object tree, contexts. They are put together here.
#![forbid(unsafe_code)]

use super::command::Commands;
use super::{qom, query};
use crate::object::Value;

pub(super) fn commands() -> Commands {
    let mut commands = Commands::new();
    // The session executes these two itself. They stand in the table so that `query-commands` lists them.
    commands.add("qmp_capabilities", |_| Ok(Value::empty()));
    commands.add("query-commands", |_| Ok(Value::empty()));
    commands.add("query-version", query::version);
    commands.add("query-qcontexts", query::qcontexts);
    commands.add("query-iothreads", query::iothreads);
    commands.add("qom-list", qom::list);
    commands.add("qom-get", qom::get);
    commands.add("qom-set", qom::set);
    commands.add("qom-list-types", qom::list_types);
    commands.add("qom-list-properties", qom::list_properties);
    commands.add("object-add", qom::object_add);
    commands.add("object-del", qom::object_del);
    commands
}
