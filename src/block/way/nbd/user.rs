//! A queue, as the connections know it that it uses.
//!
//! # Threads
//! The home of a connection puts requests into the inbox, the home of the queue takes them out.
#![forbid(unsafe_code)]

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use gsource::AioContext;

use crate::block::gate::Gate;
use crate::block::request::{Finished, Request, RequestBatch};

/// A queue that uses a connection.
#[derive(Clone, Debug)]
pub(super) struct LinkUser {
    /// A number that no other queue has.
    pub(super) id: u64,
    pub(super) gate: Arc<Gate>,
    pub(super) inbox: Arc<LinkInbox>,
}

impl LinkUser {
    pub(super) fn aio(&self) -> &AioContext {
        self.gate.aio()
    }
}

/// Requests that a connection has no more.
#[derive(Debug, Default)]
pub(super) struct LinkInbox(Mutex<InboxState>);

#[derive(Debug, Default)]
struct InboxState {
    finished: Vec<Finished>,
    /// The connection is lost, and another one is to carry them out.
    again: RequestBatch,
}

impl LinkInbox {
    pub(super) fn put(&self, finished: Finished) {
        self.with(|state| state.finished.push(finished));
    }

    pub(super) fn put_again(&self, request: Box<Request>) {
        self.with(|state| state.again.push(request));
    }

    /// Appends what has finished to `finished`, and returns what is to be done again.
    pub(super) fn take(&self, finished: &mut Vec<Finished>) -> RequestBatch {
        self.with(|state| {
            finished.append(&mut state.finished);
            mem::take(&mut state.again)
        })
    }

    /// The state is consistent after every single operation on it.
    fn with<T>(&self, act: impl FnOnce(&mut InboxState) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
