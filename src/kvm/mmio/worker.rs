//! Starts and stops a device's queues, on the device's context.
//!
//! Used by the registers, which post what the guest wants. Wishes are served in the order in which they were posted, and
//! for each queue a start waits for the stop before it.
//!
//! # Threads
//! Any thread posts, without a lock that a context takes. The state behind the mutex belongs to the control context;
//! only a word for people (`fault`) is asked for from elsewhere, by the monitor.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gsource::AioContext;
use vmm_sys_util::eventfd::EventFd;

use super::life::{Life, Run, Trouble, Used};
use crate::kvm::eventfd::owned;
use crate::virtio::memory::GuestMemory;
use crate::virtio::notify::Signal;
use crate::virtio::{Device, QueueSetup};
use crate::{Error, Result};

type Done = Box<dyn FnOnce() + Send>;

/// A queue as the guest has described it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Description {
    pub(super) size: u16,
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
}

/// A queue that is to start.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) index: u16,
    pub(super) description: Description,
    pub(super) features: u64,
    pub(super) life: Arc<Life>,
    pub(super) run: Arc<Run>,
}

/// See the head of this file.
pub(super) struct Worker {
    device: Arc<dyn Device>,
    control: AioContext,
    memory: GuestMemory,
    kicks: Arc<[EventFd]>,
    /// Queues that were started and not asked to stop.
    driven: AtomicU32,
    state: Mutex<State>,
}

struct State {
    queues: Vec<Queue>,
    closed: bool,
    waiting: Vec<Done>,
    fault: Option<String>,
}

/// What the device does with a queue.
#[derive(Debug, Default)]
enum Queue {
    #[default]
    Idle,
    Running(Arc<Run>),
    /// Stopping the first; then the second is to start.
    Stopping(Arc<Run>, Option<Start>),
}

impl Worker {
    pub(super) fn new(
        device: &Arc<dyn Device>,
        control: &AioContext,
        memory: GuestMemory,
        kicks: &Arc<[EventFd]>,
    ) -> Arc<Worker> {
        Arc::new(Worker {
            device: Arc::clone(device),
            control: control.clone(),
            memory,
            kicks: Arc::clone(kicks),
            driven: AtomicU32::new(0),
            state: Mutex::new(State {
                queues: kicks.iter().map(|_| Queue::Idle).collect(),
                closed: false,
                waiting: Vec::new(),
                fault: None,
            }),
        })
    }

    pub(super) fn is_driven(&self) -> bool {
        self.driven.load(Ordering::Relaxed) > 0
    }

    pub(super) fn fault(&self) -> Option<String> {
        self.state().fault.clone()
    }

    /// Posts the start of a queue.
    pub(super) fn start(self: &Arc<Self>, start: Start) {
        self.driven.fetch_add(1, Ordering::Relaxed);
        self.post("virtio-mmio-start", move |worker| worker.begin(start));
    }

    /// Posts the stop of a queue's run, which tells when it is quiet.
    pub(super) fn stop(self: &Arc<Self>, index: u16, run: Arc<Run>) {
        self.driven.fetch_sub(1, Ordering::Relaxed);
        self.post("virtio-mmio-stop", move |worker| worker.end(index, &run));
    }

    /// Calls `done` when what was posted before has been done and no queue runs.
    pub(super) fn when_quiet(self: &Arc<Self>, done: Done) {
        self.post("virtio-mmio-quiet", move |worker| {
            worker.state().waiting.push(done);
            worker.tell_if_quiet();
        });
    }

    /// Stops all queues, starts no more, and calls `done` when all are quiet.
    pub(super) fn close(self: &Arc<Self>, done: Done) {
        self.post("virtio-mmio-close", move |worker| {
            let mut state = worker.state();
            state.closed = true;
            state.waiting.push(done);
            let queues = state.queues.len();
            drop(state);
            for index in 0..queues {
                worker.end_any(index);
            }
            worker.tell_if_quiet();
        });
    }

    fn post(
        self: &Arc<Self>,
        name: &'static str,
        work: impl FnOnce(&Arc<Worker>) + Send + 'static,
    ) {
        let worker = Arc::clone(self);
        self.control.schedule_oneshot(name, move || work(&worker));
    }

    fn begin(self: &Arc<Self>, start: Start) {
        let mut state = self.state();
        let closed = state.closed;
        match state.queues.get_mut(usize::from(start.index)) {
            Some(queue) if !closed => match queue {
                Queue::Idle => *queue = Queue::Running(Arc::clone(&start.run)),
                Queue::Stopping(_, next) => {
                    *next = Some(start);
                    return;
                }
                // The registers never start a queue twice.
                Queue::Running(_) => return,
            },
            _ => {
                start.run.set_quiet();
                return;
            }
        }
        drop(state);
        if let Err(error) = self.set_up(&start) {
            self.fail(&start, &error);
        }
    }

    fn set_up(&self, start: &Start) -> Result<()> {
        let used: Arc<dyn Signal> = Arc::new(Used(Arc::clone(&start.life)));
        let trouble: Arc<dyn Signal> = Arc::new(Trouble(Arc::clone(&start.life)));
        let setup = QueueSetup {
            size: start.description.size,
            descriptors: start.description.descriptors,
            available: start.description.available,
            used: start.description.used,
            next_avail: 0,
            features: start.features,
            memory: self.memory.clone(),
            kick: self.kick(start.index)?,
            call: Some(used),
            err: Some(trouble),
        };
        self.device.start_queue(start.index, setup)
    }

    /// An fd of the doorbell for the device to keep.
    fn kick(&self, index: u16) -> Result<Option<OwnedFd>> {
        let kick = self.kicks.get(usize::from(index));
        let copy = kick.map(EventFd::try_clone).transpose();
        let copy = copy.map_err(|error| Error::os("cannot duplicate a doorbell's fd", error))?;
        Ok(copy.map(owned))
    }

    /// A queue that does not start: the guest described it wrongly, or the host is out of something.
    fn fail(self: &Arc<Self>, start: &Start, error: &Error) {
        let mut state = self.state();
        state.fault = Some(format!("queue {}: {error}", start.index));
        if let Some(queue) = state.queues.get_mut(usize::from(start.index)) {
            *queue = Queue::Idle;
        }
        drop(state);
        start.run.set_quiet();
        Trouble(Arc::clone(&start.life)).signal();
        self.tell_if_quiet();
    }

    fn end(self: &Arc<Self>, index: u16, run: &Arc<Run>) {
        let mut state = self.state();
        match state.queues.get_mut(usize::from(index)) {
            // The start that is taken back has not come to pass.
            Some(Queue::Stopping(_, next)) => {
                next.take();
                // The run that is to end may be the one that waited, or one that is ending already.
            }
            Some(queue @ Queue::Running(_)) => {
                *queue = Queue::Stopping(Arc::clone(run), None);
                drop(state);
                return self.ask(index);
            }
            _ => {}
        }
        drop(state);
        run.set_quiet();
    }

    fn end_any(self: &Arc<Self>, index: usize) {
        let run = match self.state().queues.get_mut(index) {
            Some(Queue::Running(run)) => Some(Arc::clone(run)),
            Some(Queue::Stopping(_, next)) => {
                if let Some(start) = next.take() {
                    start.run.set_quiet();
                }
                None
            }
            _ => None,
        };
        if let (Some(run), Ok(index)) = (run, u16::try_from(index)) {
            self.end(index, &run);
        }
    }

    /// Asks the device to stop a queue; what comes of it arrives as a post of its own.
    fn ask(self: &Arc<Self>, index: u16) {
        let worker = Arc::clone(self);
        let stopped =
            move |_| worker.post("virtio-mmio-stopped", move |worker| worker.stopped(index));
        self.device.stop_queue(index, Box::new(stopped));
    }

    fn stopped(self: &Arc<Self>, index: u16) {
        let mut state = self.state();
        let queue = state.queues.get_mut(usize::from(index));
        let Queue::Stopping(run, next) = queue.map(std::mem::take).unwrap_or_default() else {
            return;
        };
        drop(state);
        run.set_quiet();
        match next {
            Some(start) => self.begin(start),
            None => self.tell_if_quiet(),
        }
    }

    fn tell_if_quiet(&self) {
        let mut state = self.state();
        let quiet = state
            .queues
            .iter()
            .all(|queue| matches!(queue, Queue::Idle));
        let waiting = match quiet {
            true => std::mem::take(&mut state.waiting),
            false => Vec::new(),
        };
        drop(state);
        for done in waiting {
            done();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
