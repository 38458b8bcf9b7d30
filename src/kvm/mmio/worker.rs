//! Starts and stops a device's queues, on the device's context.
//!
//! Used by the registers, which post what the guest wants. Wishes are served in the order in which they were posted, and
//! for each queue a start waits for the stop before it.
//!
//! While the machine is stopped its queues are *held*: the requests in flight have finished, and nothing is taken until they
//! are released. A held queue goes on where it was; one that starts meanwhile is held from the beginning.
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
use crate::virtio::{QueueSetup, VirtioDevice};
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
#[derive(Clone, Debug)]
pub(super) struct Start {
    pub(super) index: u16,
    pub(super) description: Description,
    pub(super) features: u64,
    pub(super) life: Arc<Life>,
    pub(super) run: Arc<Run>,
}

/// See the head of this file.
pub(super) struct Worker {
    device: Arc<dyn VirtioDevice>,
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
    held: bool,
    /// Who waits until no queue is there.
    waiting: Vec<Done>,
    /// Who waits until no queue is at work.
    holding: Vec<Done>,
    fault: Option<String>,
}

/// What the device does with a queue.
#[derive(Debug, Default)]
enum Queue {
    #[default]
    Idle,
    Running(Start),
    /// Stopping the first; then the second is to start.
    Stopping(Arc<Run>, Option<Start>),
    /// Finishing what is in flight, to be held.
    Holding(Start),
    /// At rest, to be started at this available index.
    Held(Start, u16),
}

impl Worker {
    pub(super) fn new(
        device: &Arc<dyn VirtioDevice>,
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
                held: false,
                waiting: Vec::new(),
                holding: Vec::new(),
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

    /// Holds all queues, and calls `done` when none is at work.
    pub(super) fn hold(self: &Arc<Self>, done: Done) {
        self.post("virtio-mmio-hold", move |worker| {
            let mut state = worker.state();
            state.held = true;
            state.holding.push(done);
            let running = (0..).zip(&mut state.queues);
            let asked: Vec<u16> = running.filter_map(hold).collect();
            drop(state);
            for index in asked {
                worker.ask(index);
            }
            worker.tell_if_quiet();
        });
    }

    /// Lets held queues go on.
    pub(super) fn release(self: &Arc<Self>) {
        self.post("virtio-mmio-release", move |worker| {
            let mut state = worker.state();
            state.held = false;
            let held = state.queues.iter_mut().filter_map(release);
            let starts: Vec<(Start, u16)> = held.collect();
            drop(state);
            for (start, next_avail) in starts {
                worker.go_on(&start, next_avail);
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
        let (closed, held) = (state.closed, state.held);
        match state.queues.get_mut(usize::from(start.index)) {
            Some(queue) if !closed => match queue {
                Queue::Idle if held => {
                    *queue = Queue::Held(start, 0);
                    drop(state);
                    return self.tell_if_quiet();
                }
                Queue::Idle => *queue = Queue::Running(start.clone()),
                Queue::Stopping(_, next) => {
                    *next = Some(start);
                    return;
                }
                // The registers never start a queue twice.
                Queue::Running(_) | Queue::Holding(_) | Queue::Held(..) => return,
            },
            _ => {
                start.run.set_quiet();
                return;
            }
        }
        drop(state);
        self.launch(&start, 0);
    }

    /// Starts a queue again that was at rest. A device that waits for its reset is of no use before, so it stays as it is.
    fn go_on(self: &Arc<Self>, start: &Start, next_avail: u16) {
        if !start.life.needs_reset() {
            self.launch(start, next_avail);
        }
    }

    fn launch(self: &Arc<Self>, start: &Start, next_avail: u16) {
        if let Err(error) = self.set_up(start, next_avail) {
            self.fail(start, &error);
        }
    }

    fn set_up(&self, start: &Start, next_avail: u16) -> Result<()> {
        let used: Arc<dyn Signal> = Arc::new(Used(Arc::clone(&start.life)));
        let trouble: Arc<dyn Signal> = Arc::new(Trouble(Arc::clone(&start.life)));
        let setup = QueueSetup {
            size: start.description.size,
            descriptors: start.description.descriptors,
            available: start.description.available,
            used: start.description.used,
            next_avail,
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
            // It is asked already.
            Some(queue @ Queue::Holding(_)) => {
                *queue = Queue::Stopping(Arc::clone(run), None);
                return;
            }
            Some(queue @ Queue::Held(..)) => *queue = Queue::Idle,
            _ => {}
        }
        drop(state);
        run.set_quiet();
        self.tell_if_quiet();
    }

    fn end_any(self: &Arc<Self>, index: usize) {
        let run = match self.state().queues.get_mut(index) {
            Some(Queue::Running(start) | Queue::Holding(start) | Queue::Held(start, _)) => {
                Some(Arc::clone(&start.run))
            }
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
        let stopped = move |next_avail| {
            worker.post("virtio-mmio-stopped", move |worker| {
                worker.stopped(index, next_avail);
            });
        };
        self.device.stop_queue(index, Box::new(stopped));
    }

    fn stopped(self: &Arc<Self>, index: u16, next_avail: u16) {
        let mut state = self.state();
        let held = state.held;
        let Some(queue) = state.queues.get_mut(usize::from(index)) else {
            return;
        };
        let next = match std::mem::take(queue) {
            Queue::Stopping(run, next) => {
                run.set_quiet();
                next
            }
            Queue::Holding(start) if held => {
                *queue = Queue::Held(start, next_avail);
                None
            }
            // Released before it was at rest.
            Queue::Holding(start) => {
                *queue = Queue::Running(start.clone());
                drop(state);
                return self.go_on(&start, next_avail);
            }
            other => {
                *queue = other;
                return;
            }
        };
        drop(state);
        match next {
            Some(start) => self.begin(start),
            None => self.tell_if_quiet(),
        }
    }

    fn tell_if_quiet(&self) {
        let mut state = self.state();
        let all = |is: fn(&Queue) -> bool| state.queues.iter().all(is);
        let gone = all(|queue| matches!(queue, Queue::Idle));
        let at_rest = all(|queue| matches!(queue, Queue::Idle | Queue::Held(..)));
        let mut waiting = Vec::new();
        if gone {
            waiting.append(&mut state.waiting);
        }
        // Whoever released them before they were at rest does not want to know any more, but is told.
        if at_rest || !state.held {
            waiting.append(&mut state.holding);
        }
        drop(state);
        for done in waiting {
            done();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a running queue one that is to be held; its number then.
fn hold((index, queue): (u16, &mut Queue)) -> Option<u16> {
    let Queue::Running(start) = queue else {
        return None;
    };
    *queue = Queue::Holding(start.clone());
    Some(index)
}

/// Makes a held queue a running one; how to start it then.
fn release(queue: &mut Queue) -> Option<(Start, u16)> {
    let Queue::Held(start, next_avail) = queue else {
        return None;
    };
    let (start, next_avail) = (start.clone(), *next_avail);
    *queue = Queue::Running(start.clone());
    Some((start, next_avail))
}
