//! The answer that a command owes to its request.
#![forbid(unsafe_code)]

use std::fmt;
use std::thread::{self, ThreadId};

use super::main_loop::post;
use crate::object::Value;
use crate::schema::{self, CommandType};
use crate::{Error, ErrorKind, Result};

type AnswerFn = Box<dyn FnOnce(Result<Value>) + Send>;

/// The answer that a request waits for. Completing it consumes it. If it is dropped, the client receives an error.
pub struct Reply {
    /// Hands the outcome to the session; `None` once it is used.
    answer: Option<AnswerFn>,
    /// The monitor's thread.
    home: ThreadId,
    /// The command that answers.
    command: Option<&'static CommandType>,
}

impl Reply {
    /// A reply that calls `answer` on this thread.
    pub(super) fn new(answer: impl FnOnce(Result<Value>) + Send + 'static) -> Reply {
        Reply {
            answer: Some(Box::new(answer)),
            home: thread::current().id(),
            command: None,
        }
    }

    /// The answer will be that of `command`.
    pub(super) fn expect(&mut self, command: &'static CommandType) {
        self.command = Some(command);
    }

    /// Answers the request. Any thread may call this.
    pub fn complete(mut self, outcome: Result<Value>) {
        self.send(outcome);
    }

    /// Answers the request with an empty object, or with the error.
    pub fn done(self, outcome: Result<()>) {
        self.complete(outcome.map(|()| Value::empty()));
    }

    /// Answers with an empty object when `act`, which runs on a thread of its own and may wait, has succeeded.
    pub(super) fn done_by_thread(
        self,
        name: &str,
        act: impl FnOnce() -> Result<()> + Send + 'static,
    ) {
        self.by_thread(name, move || act().map(|()| Value::empty()));
    }

    /// Answers with the outcome of `act`, which runs on a thread of its own and may wait.
    pub(super) fn by_thread(
        self,
        name: &str,
        act: impl FnOnce() -> Result<Value> + Send + 'static,
    ) {
        let thread = thread::Builder::new().name(name.to_owned());
        let started = thread.spawn(move || self.complete(act()));
        // Without the thread, the dropped reply becomes an error.
        drop(started);
    }

    fn send(&mut self, outcome: Result<Value>) {
        let Some(answer) = self.answer.take() else {
            return;
        };
        let outcome = match self.command {
            Some(command) if cfg!(debug_assertions) => {
                outcome.and_then(|value| check(command, value))
            }
            _ => outcome,
        };
        if thread::current().id() == self.home {
            answer(outcome);
        } else {
            post(move || answer(outcome));
        }
    }
}

/// Makes an answer that is not as its command's description says an error, so that tests notice it.
fn check(command: &CommandType, value: Value) -> Result<Value> {
    let outcome = schema::check_value(&command.returns, value.clone(), "return");
    match outcome {
        Ok(_) => Ok(value),
        Err(error) => {
            let message = format!(
                "The answer of {} is not as described: {error}",
                command.name
            );
            Err(Error::new(ErrorKind::Protocol, message))
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

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("pending", &self.answer.is_some())
            .finish_non_exhaustive()
    }
}
