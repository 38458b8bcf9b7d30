//! The commands a monitor knows, and the reply that a command owes.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, ThreadId};

use super::{event, qom, query, session};
use crate::object::{Options, Value};
use crate::{Error, ErrorKind, Result};

type Handler = Box<dyn Fn(Options, Reply)>;

/// Commands by name. The program adds its own to the built-in ones.
pub struct Commands {
    table: BTreeMap<&'static str, Handler>,
}

impl Commands {
    /// The built-in commands: introspection, the object tree, contexts.
    pub fn new() -> Commands {
        let mut commands = Commands {
            table: BTreeMap::new(),
        };
        query::add_to(&mut commands);
        qom::add_to(&mut commands);
        // Both are the session's own; they stand here to be listed.
        commands.add("qmp_capabilities", |_| Ok(empty()));
        commands.add("query-commands", |_| Ok(empty()));
        commands
    }

    /// Adds a command that answers at once.
    pub fn add(&mut self, name: &'static str, run: impl Fn(Options) -> Result<Value> + 'static) {
        self.add_later(name, move |arguments, reply| reply.complete(run(arguments)));
    }

    /// Adds a command that may answer later, from any thread. Until then its session executes nothing else.
    pub fn add_later(&mut self, name: &'static str, run: impl Fn(Options, Reply) + 'static) {
        self.table.insert(name, Box::new(run));
    }

    /// Executes a command; the reply is completed by it in any case.
    pub(super) fn execute(&self, name: &str, arguments: Options, reply: Reply) {
        if name == "query-commands" {
            reply.complete(arguments.finish().map(|()| self.names()));
            return;
        }
        let Some(run) = self.table.get(name) else {
            reply.complete(Err(unknown(name)));
            return;
        };
        // A panic drops the reply, which then says so; the monitor goes on.
        let _ = catch_unwind(AssertUnwindSafe(|| run(arguments, reply)));
    }

    fn names(&self) -> Value {
        let names = self.table.keys();
        names
            .map(|name| Value::dict([("name", (*name).into())]))
            .collect()
    }
}

impl Default for Commands {
    fn default() -> Self {
        Commands::new()
    }
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.table.keys()).finish()
    }
}

/// What a command answers when it has nothing to say.
pub(super) fn empty() -> Value {
    Value::Dict(Vec::new())
}

fn unknown(name: &str) -> Error {
    Error::new(
        ErrorKind::CommandNotFound,
        format!("The command {name} has not been found"),
    )
}

/// The answer that a request waits for. Completing it consumes it; dropping it answers an error.
#[derive(Debug)]
pub struct Reply {
    /// The session's key and the request's id, until they are used.
    target: Option<(u64, Option<Value>)>,
    /// The monitor's thread.
    home: ThreadId,
}

impl Reply {
    pub(super) fn new(session: u64, id: Option<Value>) -> Reply {
        Reply {
            target: Some((session, id)),
            home: thread::current().id(),
        }
    }

    /// Answers the request; any thread may do it.
    pub fn complete(mut self, outcome: Result<Value>) {
        self.send(outcome);
    }

    /// Answers the request with an empty object, or the error.
    pub fn done(self, outcome: Result<()>) {
        self.complete(outcome.map(|()| empty()));
    }

    fn send(&mut self, outcome: Result<Value>) {
        let Some((key, id)) = self.target.take() else {
            return;
        };
        if thread::current().id() == self.home {
            session::deliver(key, id, outcome);
        } else {
            event::post(move || session::deliver(key, id, outcome));
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.send(Err(Error::new(
            ErrorKind::Closed,
            "The command ended without an answer",
        )));
    }
}
