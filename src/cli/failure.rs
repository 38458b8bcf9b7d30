//! Errors that end the program with exit status 1.
#![forbid(unsafe_code)]

use qcontext::{Error, ErrorKind};

use super::output::warn;

/// A message, and the part of the command line that caused it.
#[derive(Debug)]
pub(super) struct Failure {
    place: String,
    message: String,
    hint: Option<&'static str>,
}

impl Failure {
    /// A failure at `place`.
    pub(super) fn new(place: impl Into<String>, message: impl Into<String>) -> Failure {
        Failure {
            place: place.into(),
            message: message.into(),
            hint: None,
        }
    }

    /// Adds a line that says what to do.
    pub(super) fn with_hint(mut self, hint: &'static str) -> Failure {
        self.hint = Some(hint);
        self
    }

    /// An error that happened at `place`.
    pub(super) fn at(place: impl Into<String>, error: &Error) -> Failure {
        let failure = Failure::new(place, error.to_string());
        match error.kind() {
            ErrorKind::InvalidId => failure.with_hint(
                "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
            ),
            _ => failure,
        }
    }

    /// Prints the message to standard error.
    pub(super) fn report(&self) {
        warn(&self.to_string());
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "qctx: {}: {}", self.place, self.message)?;
        self.hint.map_or(Ok(()), |hint| write!(f, "\n{hint}"))
    }
}
