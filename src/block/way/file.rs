//! A queue's way to a file.
//!
//! * [`inline`]: what the page cache can answer at once
//! * [`admission`], [`bounces`]: where direct I/O waits for aligned buffers, and for its turn in the order of writes
//! * [`uring`] and [`threads`]: the engines that carry out the rest
//! * [`step`], [`bounced`]: which system call comes next and what its result means, for all of them
//! * [`inbox`]: what comes from the engines until the channel takes it
#![deny(unsafe_code)] // children that need it say why

use std::mem;
use std::sync::Arc;

use crate::Error;
use crate::block::budget::Budget;
use crate::block::gate::Gate;
use crate::block::image::Image;
use crate::block::request::{Finished, Op, Request, RequestBatch, Submission};

mod admission;
mod bounced;
mod bounces;
mod inbox;
mod inline;
mod step;
mod threads;
mod uring;

use admission::{Admission, is_admitted};
use inline::Inline;
use step::{is_ignored, is_too_slow, lost_result};
use threads::Threads;
use uring::Uring;

/// Which engine was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::block) enum Aio {
    Uring,
    Threads,
}

/// A queue's way to a file.
#[derive(Debug)]
pub(in crate::block) struct FileWay {
    image: Arc<Image>,
    inline: Inline,
    engine: Engine,
    /// Carries out what the engine does not: questions about extents, writes of direct I/O through the page cache where the
    /// file ends within a block, and all requests while the kernel gives the home no ring. Made when that first happens.
    beside: Option<Threads>,
    gate: Arc<Gate>,
    /// Set for direct I/O.
    admission: Option<Admission>,
    /// Requests for the engine, until the batch ends.
    fresh: RequestBatch,
    /// Requests that an engine gave back for another step.
    again: RequestBatch,
    /// Requests that the engine could not start, until they are reaped.
    unstarted: Vec<Finished>,
}

#[derive(Debug)]
enum Engine {
    Uring(Uring),
    Threads(Threads),
}

impl FileWay {
    /// Opens a way with the engine that was asked for; with threads where the kernel offers no rings.
    pub(in crate::block) fn open(image: &Arc<Image>, aio: Aio, gate: &Arc<Gate>) -> FileWay {
        let uring = match aio {
            Aio::Uring => Uring::new(image, gate).ok(),
            Aio::Threads => None,
        };
        let engine = match uring {
            Some(uring) => Engine::Uring(uring),
            None => Engine::Threads(Threads::new(image, gate)),
        };
        let direct = image.direct.as_ref();
        FileWay {
            image: Arc::clone(image),
            inline: Inline::new(image),
            engine,
            beside: None,
            gate: Arc::clone(gate),
            admission: direct.map(|direct| Admission::new(direct, gate)),
            fresh: Vec::new(),
            again: Vec::new(),
            unstarted: Vec::new(),
        }
    }

    pub(super) fn submit(&mut self, mut request: Box<Request>, budget: &mut Budget) -> Submission {
        if is_ignored(&self.image, &request) {
            return Submission::Done(Finished { request, result: 0 });
        }
        if is_too_slow(&self.image, &request) {
            let result = -libc::ENOTSUP;
            return Submission::Done(Finished { request, result });
        }
        if let Some(result) = lost_result(&self.image, &request) {
            return Submission::Done(Finished { request, result });
        }
        if request.op == Op::BlockStatus {
            self.start_beside(&mut vec![request]);
            return Submission::Queued;
        }
        if let Some(result) = self.inline.try_run(&self.image, &mut request, budget) {
            return Submission::Done(Finished { request, result });
        }
        match (&self.image.direct, &mut self.admission) {
            (Some(direct), Some(admission)) if !admission.is_straight(&request) => {
                admission.admit(direct, request, &mut self.fresh);
            }
            _ => self.fresh.push(request),
        }
        Submission::Queued
    }

    #[inline]
    pub(super) fn flush_submissions(&mut self) {
        if !self.fresh.is_empty() {
            self.start_fresh();
        }
    }

    fn start_fresh(&mut self) {
        match &mut self.engine {
            Engine::Uring(uring) => {
                let started = uring.start(&mut self.fresh, &mut self.again, &mut self.unstarted);
                if let Err(error) = started {
                    self.start_without_ring(&error);
                }
            }
            Engine::Threads(threads) => threads.start(&mut self.fresh),
        }
        if !self.unstarted.is_empty() || !self.again.is_empty() {
            self.gate.schedule();
        }
    }

    /// The home could not make its ring, because fds or memory have run out. The next requests try again.
    fn start_without_ring(&mut self, error: &Error) {
        if self.image.warn_once() {
            glib::g_warning!(
                "qcontext",
                "requests of a disk go through the worker pool: {error}"
            );
        }
        let mut fresh = mem::take(&mut self.fresh);
        self.start_beside(&mut fresh);
        self.fresh = fresh;
    }

    fn start_beside(&mut self, requests: &mut RequestBatch) {
        let (image, gate) = (&self.image, &self.gate);
        let beside = self.beside.get_or_insert_with(|| Threads::new(image, gate));
        beside.start(requests);
    }

    pub(super) fn reap(&mut self, budget: &mut Budget, finished: &mut Vec<Finished>) {
        let before = finished.len();
        match &mut self.engine {
            Engine::Uring(uring) => uring.reap(&mut self.again, finished),
            Engine::Threads(threads) => threads.reap(&mut self.again, finished),
        }
        if let Some(beside) = &mut self.beside {
            beside.reap(&mut self.again, finished);
        }
        finished.append(&mut self.unstarted);
        self.repeat();
        if let (Some(direct), Some(admission)) = (&self.image.direct, &mut self.admission) {
            for done in &mut finished[before..] {
                if admission.release(&mut done.request) {
                    budget.charge(done.request.length);
                }
            }
            admission.go_on(direct, &mut self.fresh);
        }
        self.flush_submissions();
    }

    /// Sends requests to their next steps.
    fn repeat(&mut self) {
        let mut again = mem::take(&mut self.again);
        let mut through_cache = Vec::new();
        for request in again.drain(..) {
            match (&self.image.direct, &mut self.admission) {
                (Some(direct), Some(admission)) if !is_admitted(direct, &request) => {
                    admission.admit_again(direct, request, &mut self.fresh);
                }
                _ if request.is_cached() => through_cache.push(request),
                _ => self.fresh.push(request),
            }
        }
        self.again = again;
        if !through_cache.is_empty() {
            self.start_beside(&mut through_cache);
        }
    }
}
