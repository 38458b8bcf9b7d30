//! A queue's way through a layer that has more to do for a request than one call.
//!
//! Used for drivers such as `blkdebug` and `qcow2`, whose requests wait: for a node below, for a time, for each other. Each
//! request is a task, a future that the driver's [`Layer`] makes. It reaches the node below through [`Below`], which is that
//! node's own way, opened for the same queue. Layers stack: what is below may be a way of tasks again.
//!
//! * [`set`]: the tasks and their wakers
//! * [`queue`]: which tasks were woken
//!
//! The life of a request: `submit` makes the task and polls it once. A task that needs nothing to wait for is finished then,
//! and costs one allocation. Otherwise its waker is with what it waits for. To wake a task puts it on the list of the queue
//! and schedules the bottom half of the gate. There the channel reaps: this way first takes what the nodes below have finished,
//! which wakes tasks, and then polls those that were woken.
//!
//! # Threads
//! As all ways: the channel uses it on the home thread. Tasks may be woken by any thread.
//!
//! # Invariants
//! 1. A task has its request until it ends, and a request that a node below has is not dropped. So no memory of a request
//!    goes while the kernel uses it.
//! 2. A way that is dropped with tasks in flight leaks them, and with them the ways below.
#![forbid(unsafe_code)]

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use super::Way;
use super::below::Below;
use crate::block::budget::Budget;
use crate::block::gate::Gate;
use crate::block::request::{Finished, Request, Submission};

pub(in crate::block) mod queue;
mod set;
#[cfg(test)]
mod tests;

use queue::TaskQueue;
use set::TaskSet;

/// The work on one request.
pub(in crate::block) type Task = Pin<Box<dyn Future<Output = Finished> + Send>>;

/// A driver's part of one queue's way.
pub(in crate::block) trait Layer: fmt::Debug + Send + Sync {
    /// Carries out a request.
    fn run(self: Arc<Self>, request: Box<Request>) -> Task;

    /// Whether it takes writes of parts of the node's blocks.
    fn takes_parts(&self) -> bool {
        false
    }

    /// Ends the waits of tasks that are not for the data. Called while the channel is drained or its owner wants to rest.
    fn hurry(&self) {}
}

/// A layer that is being opened for a queue.
#[derive(Debug)]
pub(in crate::block) struct NewLayer {
    queue: Arc<TaskQueue>,
    below: Vec<Arc<Below>>,
}

impl NewLayer {
    pub(in crate::block) fn new(gate: &Arc<Gate>) -> NewLayer {
        NewLayer {
            queue: TaskQueue::new(gate),
            below: Vec::new(),
        }
    }

    /// The queue's way to a node below, which `open` opens.
    pub(in crate::block) fn open(&mut self, open: impl FnOnce(&Arc<Gate>) -> Way) -> Arc<Below> {
        let way = open(self.queue.gate());
        let below = Arc::new(Below::new(way, &self.queue));
        self.below.push(Arc::clone(&below));
        below
    }

    /// Hands over what was submitted to the nodes below.
    pub(in crate::block) fn flush_submissions(&self) {
        self.below
            .iter()
            .for_each(|below| below.flush_submissions());
    }

    /// Takes what the nodes below have finished.
    pub(in crate::block) fn reap(&self) {
        self.below.iter().for_each(|below| below.reap());
    }

    /// The queue of the tasks.
    pub(in crate::block) fn queue(&self) -> &Arc<TaskQueue> {
        &self.queue
    }
}

/// A queue's way through a layer; see the head of this file.
#[derive(Debug)]
pub(in crate::block) struct TaskWay {
    layer: Arc<dyn Layer>,
    queue: Arc<TaskQueue>,
    below: Vec<Arc<Below>>,
    tasks: TaskSet,
}

impl TaskWay {
    /// Opens a way through the layer that `layer` makes.
    pub(in crate::block) fn open(
        gate: &Arc<Gate>,
        layer: impl FnOnce(&mut NewLayer) -> Arc<dyn Layer>,
    ) -> Way {
        let mut new = NewLayer::new(gate);
        let layer = layer(&mut new);
        let NewLayer { queue, below } = new;
        let tasks = TaskSet::new(&queue);
        Way::Tasks(Box::new(TaskWay {
            layer,
            queue,
            below,
            tasks,
        }))
    }

    pub(super) fn takes_parts(&self) -> bool {
        self.layer.takes_parts()
    }

    pub(super) fn submit(&mut self, request: Box<Request>, budget: &mut Budget) -> Submission {
        self.queue.swap_budget(budget);
        let task = Arc::clone(&self.layer).run(request);
        let finished = self.tasks.start(task);
        self.queue.swap_budget(budget);
        finished.map_or(Submission::Queued, Submission::Done)
    }

    pub(super) fn flush_submissions(&mut self) {
        for below in &self.below {
            below.flush_submissions();
        }
    }

    pub(super) fn reap(&mut self, budget: &mut Budget, finished: &mut Vec<Finished>) {
        self.queue.swap_budget(budget);
        self.queue.attend();
        if self.queue.is_hurried() {
            self.layer.hurry();
        }
        for below in &self.below {
            below.reap();
        }
        self.tasks.poll_woken(finished);
        self.flush_submissions();
        self.queue.swap_budget(budget);
    }
}
