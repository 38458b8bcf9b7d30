//! The tasks of one way that were woken, and how much they may do at once.
//!
//! Used by the way, by its tasks' wakers, and by the ways below, which charge what they do at once to the batch of the
//! channel.
//!
//! # Threads
//! Wakers call [`TaskQueue::wake`] on any thread. All else is for the home. While the home attends to the list, a wake does
//! not schedule the gate, because the home looks at the list again before it leaves.
#![forbid(unsafe_code)]

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gsource::{AioContext, Clock, Sleep};

use crate::block::budget::Budget;
use crate::block::gate::Gate;

/// Work that no request waits for.
pub(in crate::block) type BackgroundTask = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the tasks of one way share; see the head of this file.
pub(in crate::block) struct TaskQueue {
    gate: Arc<Gate>,
    wakes: Mutex<Wakes>,
    /// That of the channel's batch, while the channel has called the way.
    budget: Mutex<Budget>,
    /// Work that a task has left behind, until the set takes it.
    left_behind: Mutex<Vec<BackgroundTask>>,
}

#[derive(Debug, Default)]
struct Wakes {
    woken: Vec<usize>,
    is_attended: bool,
}

impl TaskQueue {
    pub(in crate::block) fn new(gate: &Arc<Gate>) -> Arc<TaskQueue> {
        Arc::new(TaskQueue {
            gate: Arc::clone(gate),
            wakes: Mutex::default(),
            budget: Mutex::new(Budget::BATCH),
            left_behind: Mutex::default(),
        })
    }

    pub(in crate::block) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// The AioContext whose home polls the tasks.
    pub(in crate::block) fn aio(&self) -> &AioContext {
        self.gate.aio()
    }

    /// Whether tasks should end without waits that are not for the data; see [`Layer::hurry`](super::Layer::hurry).
    pub(in crate::block) fn is_hurried(&self) -> bool {
        self.gate.is_hurried()
    }

    /// Ends after `delay_ns` of real time.
    pub(in crate::block) fn sleep_ns(&self, delay_ns: i64) -> Sleep {
        self.aio().sleep_ns(Clock::Realtime, delay_ns)
    }

    /// Lets `work` go on when the task that has begun it ends. The channel is not quiet before it has ended.
    pub(in crate::block) fn leave_behind(&self, work: BackgroundTask) {
        self.gate.background_begins();
        lock(&self.left_behind).push(work);
        self.gate.schedule();
    }

    /// The work that was left behind.
    pub(super) fn take_left_behind(&self) -> Vec<BackgroundTask> {
        match self.gate.background() {
            0 => Vec::new(),
            _ => mem::take(&mut *lock(&self.left_behind)),
        }
    }

    /// Puts a task on the list.
    pub(super) fn wake(&self, index: usize) {
        let mut wakes = lock(&self.wakes);
        wakes.woken.push(index);
        let is_attended = wakes.is_attended;
        drop(wakes);
        if !is_attended {
            self.gate.schedule();
        }
    }

    /// The home is going to look at the list.
    pub(super) fn attend(&self) {
        lock(&self.wakes).is_attended = true;
    }

    /// Swaps the list with `empty`. If there is nothing on it, the home no longer attends.
    pub(super) fn take_woken(&self, empty: &mut Vec<usize>) {
        let mut wakes = lock(&self.wakes);
        mem::swap(&mut wakes.woken, empty);
        wakes.is_attended = !empty.is_empty();
    }

    /// The home leaves before the list is empty, and comes again in the next iteration.
    pub(super) fn leave(&self) {
        lock(&self.wakes).is_attended = false;
        self.gate.schedule();
    }

    pub(super) fn swap_budget(&self, budget: &mut Budget) {
        mem::swap(&mut *lock(&self.budget), budget);
    }

    pub(in crate::block) fn budget(&self) -> MutexGuard<'_, Budget> {
        lock(&self.budget)
    }
}

impl fmt::Debug for TaskQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskQueue")
            .field("gate", &self.gate)
            .finish_non_exhaustive()
    }
}

/// All are consistent after every single operation on them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
