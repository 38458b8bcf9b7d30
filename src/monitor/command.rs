//! A monitor's commands by name, each with its description.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::reply::Reply;
use crate::object::{Options, Value};
use crate::schema::{self, CommandType, EventType};
use crate::{Error, ErrorKind, Result};

type Handler = Box<dyn Fn(Options, Reply)>;

struct Command {
    described: &'static CommandType,
    run: Handler,
}

/// Commands by name, and the events that clients may receive. A program adds its own; the monitor adds the built-in ones.
#[derive(Default)]
pub struct Commands {
    table: BTreeMap<&'static str, Command>,
    events: BTreeMap<&'static str, &'static EventType>,
}

impl Commands {
    /// No commands.
    pub fn new() -> Commands {
        Commands::default()
    }

    /// Adds a command that answers at once. Its arguments are checked against its description before it runs.
    pub fn add(
        &mut self,
        command: &'static CommandType,
        run: impl Fn(Options) -> Result<Value> + 'static,
    ) {
        self.add_later(command, move |arguments, reply| {
            reply.complete(run(arguments));
        });
    }

    /// Adds a command that may answer later, from any thread. Its session executes nothing else until then.
    pub fn add_later(
        &mut self,
        command: &'static CommandType,
        run: impl Fn(Options, Reply) + 'static,
    ) {
        let run = Box::new(run);
        let described = command;
        self.table.insert(command.name, Command { described, run });
    }

    /// Adds an event that may be [sent](super::emit).
    pub fn add_event(&mut self, event: &'static EventType) {
        self.events.insert(event.name, event);
    }

    /// Adds all of `others`; they replace commands of the same name.
    pub(super) fn extend(&mut self, others: Commands) {
        self.table.extend(others.table);
        self.events.extend(others.events);
    }

    /// Whether clients may receive this event.
    pub(super) fn has_event(&self, event: &EventType) -> bool {
        self.events.contains_key(event.name)
    }

    /// Executes a command, which completes the reply in every case.
    pub(super) fn execute(&self, name: &str, arguments: Options, mut reply: Reply) {
        let Some(command) = self.table.get(name) else {
            reply.complete(Err(unknown(name)));
            return;
        };
        let arguments = match schema::check(command.described.arguments, arguments) {
            Ok(arguments) => arguments,
            Err(error) => return reply.complete(Err(error)),
        };
        reply.expect(command.described);
        match name {
            "query-commands" => reply.complete(Ok(self.names())),
            "query-qmp-schema" => reply.complete(Ok(self.schema())),
            // A panic drops the reply, whose client then receives an error. The monitor goes on.
            _ => {
                let _ = catch_unwind(AssertUnwindSafe(|| (command.run)(arguments, reply)));
            }
        }
    }

    fn names(&self) -> Value {
        let names = self.table.keys();
        names
            .map(|name| Value::dict([("name", (*name).into())]))
            .collect()
    }

    fn schema(&self) -> Value {
        let commands = self.table.values().map(|command| command.described);
        schema::describe(commands, self.events.values().copied())
    }
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.table.keys()).finish()
    }
}

fn unknown(name: &str) -> Error {
    Error::new(
        ErrorKind::CommandNotFound,
        format!("The command {name} has not been found"),
    )
}
