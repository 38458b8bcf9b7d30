//! The answer that a command owes to its request.
#![forbid(unsafe_code)]

use std::fmt;
use std::thread::{self, ThreadId};

use super::main_loop::post;
use crate::object::Value;
use crate::{Error, ErrorKind, Result};

type AnswerFn = Box<dyn FnOnce(Result<Value>) + Send>;

/// The answer that a request waits for. Completing it consumes it. If it is dropped, the client receives an error.
pub struct Reply {
    /// Hands the outcome to the session; `None` once it is used.
    answer: Option<AnswerFn>,
    /// The monitor's thread.
    home: ThreadId,
}

impl Reply {
    /// A reply that calls `answer` on this thread.
    pub(super) fn new(answer: impl FnOnce(Result<Value>) + Send + 'static) -> Reply {
        Reply {
            answer: Some(Box::new(answer)),
            home: thread::current().id(),
        }
    }

    /// Answers the request. Any thread may call this.
    pub fn complete(mut self, outcome: Result<Value>) {
        self.send(outcome);
    }

    /// Answers the request with an empty object, or with the error.
    pub fn done(self, outcome: Result<()>) {
        self.complete(outcome.map(|()| Value::empty()));
    }

    fn send(&mut self, outcome: Result<Value>) {
        let Some(answer) = self.answer.take() else {
            return;
        };
        if thread::current().id() == self.home {
            answer(outcome);
        } else {
            post(move || answer(outcome));
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
