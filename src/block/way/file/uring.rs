//! The io_uring engine: requests go into the ring of the home that drives the AioContext.
//!
//! Used by [`super::FileWay`]. The home enters the ring once per iteration; here entries are only pushed.
//!
//! # Threads
//! Everything here belongs to the home. The list of completions has a lock because the ring fills it while the channel is
//! not locked.
#![allow(unsafe_code)] // pushing a request promises that it owns its memory

use std::ops::ControlFlow;
use std::sync::Arc;

use gsource::{FileRequests, IoBatch, IoCompletion, IoQueue, IoSink};

use super::inbox::Inbox;
use super::step::{next_step, run, take_result};
use crate::block::gate::Gate;
use crate::block::image::Image;
use crate::block::request::{Finished, Request, RequestBatch};
use crate::{ErrorKind, Result};

/// A channel's part of the home's ring.
#[derive(Debug)]
pub(super) struct Uring {
    queue: IoQueue,
    requests: FileRequests<Image, Box<Request>>,
    completions: Arc<Completions>,
    /// Empty.
    spare: Vec<IoCompletion>,
}

/// Completions on their way from the ring to the channel.
#[derive(Debug)]
struct Completions {
    inbox: Inbox<IoCompletion>,
    gate: Arc<Gate>,
}

impl IoSink for Completions {
    fn complete(&self, completions: &[IoCompletion]) {
        self.inbox.put_all(completions);
        self.gate.call_owner();
    }
}

impl Uring {
    /// # Errors
    /// `Unsupported` where the kernel has no ring.
    pub(super) fn new(image: &Arc<Image>, gate: &Arc<Gate>) -> Result<Self> {
        let completions = Arc::new(Completions {
            inbox: Inbox::default(),
            gate: Arc::clone(gate),
        });
        let sink: Arc<dyn IoSink> = Arc::<Completions>::clone(&completions);
        Ok(Uring {
            queue: gate.aio().register_io(sink)?,
            requests: FileRequests::new(Arc::clone(image)),
            completions,
            spare: Vec::new(),
        })
    }

    /// Pushes the next step of each request. Those for which that fails go to `finished`, or to `again` for another step.
    ///
    /// # Errors
    /// The home has no ring. No request was taken.
    pub(super) fn start(
        &mut self,
        requests: &mut RequestBatch,
        again: &mut RequestBatch,
        finished: &mut Vec<Finished>,
    ) -> Result<()> {
        let table = &mut self.requests;
        self.queue.batch(|batch| {
            for request in requests.drain(..) {
                match push(table, batch, request) {
                    None => {}
                    Some(Ok(done)) => finished.push(done),
                    Some(Err(request)) => again.push(request),
                }
            }
        })
    }

    /// Takes in the completions that arrived: requests that need another step go to `again`, the others to `finished`.
    pub(super) fn reap(&mut self, again: &mut RequestBatch, finished: &mut Vec<Finished>) {
        self.completions.inbox.take(&mut self.spare);
        for completion in self.spare.drain(..) {
            let Some(mut request) = self.requests.complete(completion) else {
                continue;
            };
            match take_result(self.requests.file(), &mut request, completion.result) {
                ControlFlow::Break(result) => finished.push(Finished { request, result }),
                ControlFlow::Continue(()) => again.push(request),
            }
        }
    }
}

/// Pushes the request's next step. If that fails, gives the request back, finished or for another step.
fn push(
    table: &mut FileRequests<Image, Box<Request>>,
    batch: &mut IoBatch<'_>,
    request: Box<Request>,
) -> Option<std::result::Result<Finished, Box<Request>>> {
    // SAFETY: the memory that a step names is the request's (its invariant 1), as are the vectors, or it is static zeroes.
    let pushed = unsafe { table.push(batch, request, |image, request| next_step(image, request)) };
    let (back, error) = pushed.err()?;
    if error.kind() == ErrorKind::LimitExceeded {
        // The ring is full although the kernel was asked to empty it: better slow than failed.
        return Some(run(table.file(), back));
    }
    Some(Ok(Finished {
        request: back,
        result: -error.errno(),
    }))
}
