//! The tasks of one way.
//!
//! A place in the set keeps its waker when a task ends, so a task costs no more than its own future. A waker that is called
//! late wakes the place's next task, which does no harm: a task may be polled at any time.
#![forbid(unsafe_code)]

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::Task;
use super::queue::{BackgroundTask, TaskQueue};
use crate::block::request::Finished;

/// How often tasks are polled per iteration of the home. The others wait for the next one, so that neighbours on the same
/// home get their turn.
const POLLS_MAX: usize = 256;

/// Tasks that are not over.
pub(super) struct TaskSet {
    queue: Arc<TaskQueue>,
    places: Vec<Place>,
    free: Vec<usize>,
    /// Those to be polled; empty between calls, unless there were too many.
    woken: Vec<usize>,
}

struct Place {
    work: Option<Work>,
    wake: Arc<PlaceWake>,
    waker: Waker,
}

enum Work {
    Request(Task),
    Background(BackgroundTask),
}

/// What a waker does.
struct PlaceWake {
    index: usize,
    is_woken: AtomicBool,
    queue: Arc<TaskQueue>,
}

impl Wake for PlaceWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            self.queue.wake(self.index);
        }
    }
}

impl TaskSet {
    pub(super) fn new(queue: &Arc<TaskQueue>) -> TaskSet {
        TaskSet {
            queue: Arc::clone(queue),
            places: Vec::new(),
            free: Vec::new(),
            woken: Vec::new(),
        }
    }

    /// Polls a new task once, and keeps it unless it has finished.
    pub(super) fn start(&mut self, task: Task) -> Option<Finished> {
        self.add(Work::Request(task))
    }

    fn add(&mut self, work: Work) -> Option<Finished> {
        let index = self.free.pop().unwrap_or_else(|| self.add_place());
        self.places[index].work = Some(work);
        self.poll(index)
    }

    /// Polls the tasks that were woken, and those that they wake.
    pub(super) fn poll_woken(&mut self, finished: &mut Vec<Finished>) {
        for work in self.queue.take_left_behind() {
            self.add(Work::Background(work));
        }
        let mut left = POLLS_MAX;
        loop {
            if self.woken.is_empty() {
                self.queue.take_woken(&mut self.woken);
            }
            if self.woken.is_empty() {
                return;
            }
            if left == 0 {
                return self.queue.leave();
            }
            let count = self.woken.len().min(left);
            left -= count;
            let mut woken = mem::take(&mut self.woken);
            finished.extend(woken.drain(..count).filter_map(|index| self.poll(index)));
            self.woken = woken;
        }
    }

    fn poll(&mut self, index: usize) -> Option<Finished> {
        let place = &mut self.places[index];
        // Before the poll: a wake from here on may be for what the poll does not see any more.
        place.wake.is_woken.store(false, Ordering::Release);
        let context = &mut Context::from_waker(&place.waker);
        let polled = match place.work.as_mut()? {
            Work::Request(task) => task.as_mut().poll(context).map(Some),
            Work::Background(work) => work.as_mut().poll(context).map(|()| None),
        };
        match polled {
            Poll::Pending => None,
            Poll::Ready(finished) => {
                place.work = None;
                self.free.push(index);
                if finished.is_none() {
                    self.queue.gate().background_ends();
                }
                finished
            }
        }
    }

    fn add_place(&mut self) -> usize {
        let index = self.places.len();
        let wake = Arc::new(PlaceWake {
            index,
            is_woken: AtomicBool::new(false),
            queue: Arc::clone(&self.queue),
        });
        self.places.push(Place {
            work: None,
            waker: Waker::from(Arc::clone(&wake)),
            wake,
        });
        index
    }
}

impl Drop for TaskSet {
    /// Tasks in flight are leaked: the kernel may be using memory that they keep.
    fn drop(&mut self) {
        for place in &mut self.places {
            mem::forget(place.work.take());
        }
    }
}

impl fmt::Debug for TaskSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskSet({})", self.places.len() - self.free.len())
    }
}
