//! A monitor's commands by name.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::reply::Reply;
use crate::object::{Options, Value};
use crate::{Error, ErrorKind, Result};

type Handler = Box<dyn Fn(Options, Reply)>;

/// Commands by name. A program adds its own; the monitor adds the built-in ones.
#[derive(Default)]
pub struct Commands {
    table: BTreeMap<&'static str, Handler>,
}

impl Commands {
    /// No commands.
    pub fn new() -> Commands {
        Commands::default()
    }

    /// Adds a command that answers at once.
    pub fn add(&mut self, name: &'static str, run: impl Fn(Options) -> Result<Value> + 'static) {
        self.add_later(name, move |arguments, reply| reply.complete(run(arguments)));
    }

    /// Adds a command that may answer later, from any thread. Its session executes nothing else until then.
    pub fn add_later(&mut self, name: &'static str, run: impl Fn(Options, Reply) + 'static) {
        self.table.insert(name, Box::new(run));
    }

    /// Adds all of `others`; they replace commands of the same name.
    pub(super) fn extend(&mut self, others: Commands) {
        self.table.extend(others.table);
    }

    /// Executes a command, which completes the reply in every case.
    pub(super) fn execute(&self, name: &str, arguments: Options, reply: Reply) {
        if name == "query-commands" {
            reply.complete(arguments.finish().map(|()| self.names()));
            return;
        }
        let Some(run) = self.table.get(name) else {
            reply.complete(Err(unknown(name)));
            return;
        };
        // A panic drops the reply, whose client then receives an error. The monitor goes on.
        let _ = catch_unwind(AssertUnwindSafe(|| run(arguments, reply)));
    }

    fn names(&self) -> Value {
        let names = self.table.keys();
        names
            .map(|name| Value::dict([("name", (*name).into())]))
            .collect()
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
