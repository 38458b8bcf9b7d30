//! A queue's way to a file.
//!
//! * [`inline`]: what the page cache can answer at once
//! * [`bounces`]: aligned buffers for direct I/O
//! * [`uring`] and [`threads`]: the engines that carry out the rest
//! * [`step`]: which system call comes next and what its result means, for all of them
//! * [`inbox`]: what comes from the engines until the channel takes it
#![deny(unsafe_code)] // children that need it say why

use std::collections::VecDeque;
use std::sync::Arc;

use crate::block::budget::Budget;
use crate::block::gate::Gate;
use crate::block::image::Image;
use crate::block::request::{Finished, Request, RequestBatch, Submission};

mod bounces;
mod inbox;
mod inline;
mod step;
mod threads;
mod uring;

use bounces::Bounces;
use inline::Inline;
use step::is_ignored;
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
    gate: Arc<Gate>,
    bounces: Bounces,
    /// Requests for the engine, until the batch ends.
    fresh: RequestBatch,
    /// Requests that wait for a bounce buffer.
    waiting: VecDeque<Box<Request>>,
    /// Requests that the engine could not start, until they are reaped.
    unstarted: Vec<Finished>,
}

#[derive(Debug)]
enum Engine {
    Uring(Uring),
    Threads(Threads),
}

impl FileWay {
    /// Opens a way with the engine that was asked for; with threads where the kernel offers no ring to this queue.
    pub(in crate::block) fn open(image: &Arc<Image>, aio: Aio, gate: &Arc<Gate>) -> FileWay {
        let uring = match aio {
            Aio::Uring => Uring::new(image, gate).ok(),
            Aio::Threads => None,
        };
        let engine = match uring {
            Some(uring) => Engine::Uring(uring),
            None => Engine::Threads(Threads::new(image, gate)),
        };
        let align = image.alignment.map(|alignment| alignment.memory);
        FileWay {
            image: Arc::clone(image),
            inline: Inline::new(image),
            engine,
            gate: Arc::clone(gate),
            bounces: Bounces::new(align),
            fresh: Vec::new(),
            waiting: VecDeque::new(),
            unstarted: Vec::new(),
        }
    }

    pub(super) fn submit(&mut self, mut request: Box<Request>, budget: &mut Budget) -> Submission {
        if is_ignored(&self.image, &request) {
            return Submission::Done(Finished { request, result: 0 });
        }
        if let Some(result) = self.inline.try_run(&self.image, &mut request, budget) {
            return Submission::Done(Finished { request, result });
        }
        if self.bounces.wants(&request) {
            self.waiting.push_back(request);
            self.start_waiting();
        } else {
            self.fresh.push(request);
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
        let (fresh, unstarted) = (&mut self.fresh, &mut self.unstarted);
        match &mut self.engine {
            Engine::Uring(uring) => uring.start(fresh, unstarted),
            Engine::Threads(threads) => threads.start(fresh),
        }
        if !self.unstarted.is_empty() {
            self.gate.schedule();
        }
    }

    pub(super) fn reap(&mut self, budget: &mut Budget, finished: &mut Vec<Finished>) {
        let before = finished.len();
        match &mut self.engine {
            Engine::Uring(uring) => uring.reap(&mut self.fresh, finished),
            Engine::Threads(threads) => threads.reap(finished),
        }
        finished.append(&mut self.unstarted);
        for done in &mut finished[before..] {
            if let Some(bounce) = done.request.bounce.take() {
                budget.charge(done.request.length);
                self.bounces.put(bounce);
            }
        }
        self.start_waiting();
        self.flush_submissions();
    }

    /// Gives bounce buffers to the requests that wait for one, in order.
    fn start_waiting(&mut self) {
        while let Some(request) = self.waiting.front_mut() {
            let Some(bounce) = self.bounces.take() else {
                return;
            };
            request.bounce = Some(bounce);
            self.fresh.extend(self.waiting.pop_front());
        }
    }
}
