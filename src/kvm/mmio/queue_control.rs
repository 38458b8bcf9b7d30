//! Starts, holds and stops a device's queues, on the device's context.
//!
//! Used by the registers, which post what the guest asks for, and by the transport's owner. Posts are carried out in order.
//! The device itself starts a queue only after the stop before it, and keeps held queues still.
//!
//! # Threads
//! Any thread posts, without a lock that a context takes. The state behind the mutex belongs to the control context.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gsource::AioContext;

use super::interrupt_status::{BrokenQueueSignal, InterruptStatus, QueueRun, UsedBufferSignal};
use crate::Error;
use crate::virtio::fault::DeviceFault;
use crate::virtio::memory::GuestMemory;
use crate::virtio::notify::{KickFd, Signal};
use crate::virtio::{Countdown, QueueSetup, VirtioDevice};

/// Called once on the control context.
type ControlCallback = Box<dyn FnOnce() + Send>;

/// A queue as the guest has described it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct QueueDescription {
    pub(super) size: u16,
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
}

/// A queue that is to start.
#[derive(Clone, Debug)]
pub(super) struct QueueStart {
    pub(super) index: u16,
    pub(super) description: QueueDescription,
    pub(super) features: u64,
    pub(super) interrupts: Arc<InterruptStatus>,
    pub(super) run: Arc<QueueRun>,
}

/// See the head of this file.
pub(super) struct QueueControl {
    device: Arc<dyn VirtioDevice>,
    control: AioContext,
    memory: GuestMemory,
    kicks: Arc<[KickFd]>,
    /// Queues that were started and not asked to stop.
    driven: AtomicU32,
    state: Mutex<ControlState>,
}

#[derive(Default)]
struct ControlState {
    closed: bool,
    /// The latest start of each queue.
    runs: BTreeMap<u16, Arc<QueueRun>>,
    /// How often this transport holds the device.
    holds: u32,
}

impl QueueControl {
    pub(super) fn new(
        device: &Arc<dyn VirtioDevice>,
        control: &AioContext,
        memory: GuestMemory,
        kicks: &Arc<[KickFd]>,
    ) -> Arc<QueueControl> {
        Arc::new(QueueControl {
            device: Arc::clone(device),
            control: control.clone(),
            memory,
            kicks: Arc::clone(kicks),
            driven: AtomicU32::new(0),
            state: Mutex::default(),
        })
    }

    pub(super) fn is_driven(&self) -> bool {
        self.driven.load(Ordering::Relaxed) > 0
    }

    /// Reports that the device or a queue does not serve the driver, which must reset it.
    pub(super) fn report(&self, queue: u16, reason: String) {
        let queue = Some(queue);
        self.device.report(DeviceFault { queue, reason });
    }

    /// Posts the start of a queue.
    pub(super) fn start(self: &Arc<Self>, start: QueueStart) {
        self.driven.fetch_add(1, Ordering::Relaxed);
        self.post("virtio-mmio-start", move |this| this.begin(&start));
    }

    /// Posts the stop of a queue; `run` becomes quiet when it is over.
    pub(super) fn stop(self: &Arc<Self>, index: u16, run: Arc<QueueRun>) {
        self.driven.fetch_sub(1, Ordering::Relaxed);
        self.post("virtio-mmio-stop", move |this| {
            let stopped = move |_| run.set_quiet();
            this.device.stop_queue(index, Box::new(stopped));
        });
    }

    /// Stops all queues, starts no more, and calls `done` when all are quiet.
    pub(super) fn close(self: &Arc<Self>, done: ControlCallback) {
        self.post("virtio-mmio-close", move |this| {
            let mut state = this.state();
            state.closed = true;
            let mut runs = std::mem::take(&mut state.runs);
            drop(state);
            let queues = this.device.queue_count();
            let all = Countdown::new(queues.into(), this.on_control(done));
            for index in 0..queues {
                let (run, part) = (runs.remove(&index), all.part());
                let stopped = move |_| {
                    // The driver may reset the device when this context runs nothing any more.
                    run.iter().for_each(|run| run.set_quiet());
                    part();
                };
                this.device.stop_queue(index, Box::new(stopped));
            }
            // The device may go to another machine, which runs.
            this.end_holds();
        });
    }

    /// Holds all queues, and calls `done` when no request is in flight.
    pub(super) fn hold(self: &Arc<Self>, done: ControlCallback) {
        self.post("virtio-mmio-hold", move |this| {
            let mut state = this.state();
            if state.closed {
                drop(state);
                return done();
            }
            state.holds += 1;
            drop(state);
            this.device.hold(this.on_control(done));
        });
    }

    /// Lets held queues go on, however often they are held.
    pub(super) fn release(self: &Arc<Self>) {
        self.post("virtio-mmio-release", |this| this.end_holds());
    }

    fn end_holds(&self) {
        let holds = std::mem::take(&mut self.state().holds);
        for _ in 0..holds {
            self.device.release();
        }
    }

    fn post(
        self: &Arc<Self>,
        name: &'static str,
        work: impl FnOnce(&Arc<QueueControl>) + Send + 'static,
    ) {
        let this = Arc::clone(self);
        self.control.schedule_oneshot(name, move || work(&this));
    }

    /// `done`, called on the control context by whatever thread calls this.
    fn on_control(&self, done: ControlCallback) -> ControlCallback {
        let control = self.control.clone();
        Box::new(move || control.schedule_oneshot("virtio-mmio-done", done))
    }

    fn begin(&self, start: &QueueStart) {
        let mut state = self.state();
        if state.closed {
            return start.run.set_quiet();
        }
        state.runs.insert(start.index, Arc::clone(&start.run));
        drop(state);
        let started = self.device.start_queue(start.index, self.set_up(start));
        if let Err(error) = started {
            self.fail(start, &error);
        }
    }

    fn set_up(&self, start: &QueueStart) -> QueueSetup {
        let used: Arc<dyn Signal> = Arc::new(UsedBufferSignal(Arc::clone(&start.interrupts)));
        let broken: Arc<dyn Signal> = Arc::new(BrokenQueueSignal(Arc::clone(&start.interrupts)));
        QueueSetup {
            size: start.description.size,
            descriptors: start.description.descriptors,
            available: start.description.available,
            used: start.description.used,
            next_avail: 0,
            features: start.features,
            memory: self.memory.clone(),
            kick: self.kicks.get(usize::from(start.index)).cloned(),
            call: Some(used),
            err: Some(broken),
        }
    }

    /// A queue that does not start: the guest described it wrongly, or the host has no resources for it.
    fn fail(&self, start: &QueueStart, error: &Error) {
        self.report(start.index, format!("cannot start: {error}"));
        start.run.set_quiet();
        BrokenQueueSignal(Arc::clone(&start.interrupts)).signal();
    }

    fn state(&self) -> MutexGuard<'_, ControlState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
