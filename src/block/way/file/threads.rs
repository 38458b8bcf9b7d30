//! The thread engine: requests run on the worker pool of the home.
//!
//! Used by [`super::FileWay`] where io_uring is not wanted, or not allowed by the kernel. The pool gets the same piece of
//! work as often as there are requests, so a request costs no allocation. Finished requests come home through a bottom
//! half, many at a time.
//!
//! # Threads
//! `start` and `reap` belong to the home; the workers share the two lists with it.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use gsource::{AioContext, Work};

use super::inbox::{Inbox, lock};
use super::step::run;
use crate::block::gate::Gate;
use crate::block::image::Image;
use crate::block::request::{Finished, Request, RequestBatch};

/// A channel's way to the pool.
pub(super) struct Threads {
    aio: AioContext,
    requests: Arc<PoolRequests>,
    /// `requests`, as the pool takes it.
    work: Arc<dyn Work>,
    /// Empty.
    spare: Vec<Finished>,
    /// Empty.
    spare_again: RequestBatch,
}

/// The requests that the workers have.
#[derive(Debug)]
struct PoolRequests {
    image: Arc<Image>,
    /// One for each time that the pool has been given the work.
    queue: Mutex<VecDeque<Box<Request>>>,
    finished: Inbox<Finished>,
    /// Requests that direct I/O does not take as they are.
    again: Inbox<Box<Request>>,
    gate: Arc<Gate>,
}

impl Threads {
    pub(super) fn new(image: &Arc<Image>, gate: &Arc<Gate>) -> Self {
        let requests = Arc::new(PoolRequests {
            image: Arc::clone(image),
            queue: Mutex::default(),
            finished: Inbox::default(),
            again: Inbox::default(),
            gate: Arc::clone(gate),
        });
        Threads {
            aio: gate.aio().clone(),
            work: Arc::<PoolRequests>::clone(&requests),
            requests,
            spare: Vec::new(),
            spare_again: Vec::new(),
        }
    }

    /// Gives requests to the workers.
    pub(super) fn start(&mut self, requests: &mut RequestBatch) {
        let count = requests.len();
        lock(&self.requests.queue).extend(requests.drain(..));
        self.aio.pool().enqueue(&self.work, count);
    }

    /// Appends what the workers finished to `finished`, and requests that need another step to `again`.
    pub(super) fn reap(&mut self, again: &mut RequestBatch, finished: &mut Vec<Finished>) {
        self.requests.finished.take(&mut self.spare);
        finished.append(&mut self.spare);
        self.requests.again.take(&mut self.spare_again);
        again.append(&mut self.spare_again);
    }
}

impl std::fmt::Debug for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Threads")
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}

impl Work for PoolRequests {
    fn run(&self) {
        let request = lock(&self.queue).pop_front();
        if let Some(request) = request {
            match run(&self.image, request) {
                Ok(finished) => self.finished.put(finished),
                Err(request) => self.again.put(request),
            }
            self.gate.schedule();
        }
    }
}
