//! The worker of a queue, for every device model and every transport: start, kicks, adaptive polling, hold, release, stop.
//!
//! A [`WorkerDevice`] has a `QueueWorker` for each of its queues. The worker decides when a batch runs; `serving` runs it,
//! and the model knows what a request means.
//!
//! * `model`: what a device model implements
//! * `device`: a model with the workers of its queues, as transports see it
//! * `life`: the phases of a queue, and the callbacks that wait for the next one
//! * `serving`: a started queue and its batches
//! * `answers`: the way back to the guest
//!
//! ```text
//!          start               stop
//! Idle ------------> Running --------> Stopping ----> Idle, or Running if a start came meanwhile
//! ```
//! While a queue is *held* it takes no chains, in any phase. It *rests* when it does nothing for kept chains either; then nothing of
//! the device changes the guest's memory until the queue is released. Kept chains are *parked* if their requests failed and wait for
//! the guest to go on after a stop: the model repeats them after the last release, and answers them when the queue stops.
//!
//! # Threads
//! `Life` is behind one mutex, which the home takes once per batch. Other threads take it to start, hold and stop, and to
//! change fds, so it is practically never contended. Of foreign code, only the model's queue runs under it.
//!
//! # Invariants
//! 1. From the start until the queue is quiet after a stop, `keep` keeps the worker alive. So the memory of kept chains,
//!    which the started queue owns, outlives them even if the device is dropped.
//! 2. The model's queue and the kick handler belong to the queue's own AioContext.
#![deny(unsafe_code)] // children that need it say why

use std::mem;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use gsource::{AioContext, Bh, FdHandler};

use super::fault::{DeviceFault, FaultReporter};
use super::notify::{KickFd, Signal};
use super::queue::Broken;
use super::{QueueSetup, Rested, Stopped};
use crate::{Error, ErrorKind, Result};

mod answers;
mod device;
mod life;
mod model;
mod notifications;
#[cfg(test)]
pub(crate) mod patient;
mod serving;
#[cfg(test)]
mod tests;

pub use answers::{Answers, Tag};
pub use device::{ConfigNotice, QUEUES_MAX, WorkerDevice};
use life::{Life, Phase, Stop};
use model::ReadyQueue;
pub use model::{FailureReport, Model, QueueHandle, QueueModel};
use notifications::Notifications;
use serving::{AfterBatch, BatchCause, Intake, QueueFault, Serving};

/// The model cannot open the queue.
const NO_RESOURCES: Broken = Broken("the host has no resources for the queue");
/// The queue was to start again after a stop.
const NOT_AGAIN: Broken = Broken("the queue cannot start again");

/// The worker of one queue.
struct QueueWorker<M: Model> {
    model: Arc<M>,
    index: u16,
    aio: AioContext,
    /// Continues a batch that stopped to let neighbours have their turn.
    resume: Bh,
    notifications: Notifications,
    faults: FaultReporter,
    life: Mutex<Life<M>>,
}

impl<M: Model> QueueWorker<M> {
    fn new(
        model: &Arc<M>,
        index: u16,
        aio: AioContext,
        faults: &FaultReporter,
    ) -> Arc<QueueWorker<M>> {
        Arc::new_cyclic(|weak| {
            let weak = Weak::clone(weak);
            let resume = aio.bh("virtio-queue", move || {
                with(&weak, QueueWorker::serve).unwrap_or(());
            });
            QueueWorker {
                model: Arc::clone(model),
                index,
                aio,
                resume,
                notifications: Notifications::default(),
                faults: faults.clone(),
                life: Mutex::new(Life::new()),
            }
        })
    }

    fn broken(&self) -> Option<Broken> {
        let mut life = self.lock();
        let refused = life.refused;
        life.serving().map_or(refused, |serving| serving.broken())
    }

    /// Reports that the queue does not serve the guest: first to those who run the host, so that a reader who learns of it from
    /// the guest finds the reason.
    fn report(&self, fault: QueueFault) {
        self.faults.broken(DeviceFault {
            queue: Some(self.index),
            reason: fault.reason,
        });
        if let Some(err) = fault.err {
            err.signal();
        }
    }

    /// Whether the queue was started and not asked to stop.
    fn is_started(&self) -> bool {
        matches!(self.lock().phase, Phase::Running(_))
    }

    /// See [`super::VirtioDevice::start_queue`].
    fn start(self: &Arc<Self>, setup: QueueSetup) -> Result<()> {
        let serving = Box::new(Serving::new(&setup)?);
        let mut life = self.lock();
        match &mut life.phase {
            Phase::Idle => self.launch(life, serving, setup.kick),
            Phase::Stopping(_, stop) if stop.restart.is_none() => {
                stop.restart = Some(setup);
                Ok(())
            }
            Phase::Running(_) | Phase::Stopping(..) => {
                Err(Error::new(ErrorKind::Busy, "the queue is running already"))
            }
        }
    }

    fn launch(
        self: &Arc<Self>,
        mut life: MutexGuard<'_, Life<M>>,
        serving: Box<Serving<M::Queue>>,
        kick: Option<KickFd>,
    ) -> Result<()> {
        if let Some(kick) = &kick {
            self.watch(kick)?;
        }
        life.kick = kick;
        life.phase = Phase::Running(serving);
        life.refused = None;
        life.keep = Some(Arc::clone(self));
        drop(life);
        let worker = Arc::clone(self);
        self.aio
            .schedule_oneshot("virtio-queue-start", move || worker.begin());
        Ok(())
    }

    fn watch(self: &Arc<Self>, kick: &KickFd) -> Result<()> {
        let [kicked, polled, ready, switched] = [(); 4].map(|()| Arc::downgrade(self));
        let handler = FdHandler::new()
            .edge_triggered()
            .on_read(move || with(&kicked, QueueWorker::kicked).unwrap_or(()))
            .io_poll(
                move || with(&polled, QueueWorker::has_work).unwrap_or(false),
                move || with(&ready, QueueWorker::serve).unwrap_or(()),
            )
            .io_poll_switch(move |polling| {
                with(&switched, |worker| worker.set_polling(polling)).unwrap_or(());
            });
        self.aio.set_fd_handler(kick.as_raw_fd(), handler)
    }

    /// Lets go of the kick. Under the lock, because the next start may watch the same fd.
    fn unwatch(&self, life: &mut Life<M>) {
        if let Some(kick) = life.kick.take() {
            self.aio.remove_fd_handler(kick.as_raw_fd());
        }
    }

    /// On the home: opens the model's queue and takes what the guest has put into the ring so far.
    fn begin(self: &Arc<Self>) {
        let this: Arc<dyn ReadyQueue> = Arc::<QueueWorker<M>>::clone(self);
        let handle = QueueHandle::new(Arc::downgrade(&this));
        let opened = self.model.open_queue(self.index, &self.aio, handle);
        let spare = match (self.lock().serving(), opened) {
            (Some(serving), Ok(queue)) => serving.install(queue),
            (Some(serving), Err(error)) => {
                serving.break_down(NO_RESOURCES, Some(&error));
                None
            }
            // It has stopped already.
            (None, opened) => opened.ok(),
        };
        drop(spare);
        self.serve();
    }

    fn kicked(&self) {
        self.notifications.count_kick();
        self.serve();
    }

    /// For adaptive polling: whether the home looks by itself.
    fn set_polling(&self, polling: bool) {
        let mut life = self.lock();
        let intake = life.intake();
        if let Some(serving) = life.serving() {
            serving.set_polling(polling, intake);
        }
    }

    /// For adaptive polling: whether a batch would find something.
    fn has_work(&self) -> bool {
        let mut life = self.lock();
        life.intake() == Intake::Open && life.serving().is_some_and(|serving| serving.has_work())
    }

    /// One batch, on the home.
    fn serve(&self) {
        self.batch(BatchCause::Kick);
    }

    fn batch(&self, cause: BatchCause) {
        let mut life = self.lock();
        let intake = life.intake();
        let cause = match intake == Intake::Open && mem::take(&mut life.was_released) {
            true => BatchCause::Release,
            false => cause,
        };
        let Some(serving) = life.serving() else {
            return;
        };
        let next = serving.batch(cause, intake, &self.notifications);
        if next == AfterBatch::Wait && intake == Intake::Open {
            return;
        }
        let fault = match next {
            AfterBatch::Broken => {
                self.unwatch(&mut life);
                life.take_fault()
            }
            AfterBatch::Wait | AfterBatch::Again => None,
        };
        let ending = life.take_quiet();
        let rested = life.take_rested();
        drop(life);
        if next == AfterBatch::Again {
            self.resume.schedule();
        }
        fault.into_iter().for_each(|fault| self.report(fault));
        if let Some(worker) = ending {
            // In an iteration of its own: what the model drops may be what got us here.
            self.aio
                .schedule_oneshot("virtio-queue-stopped", move || worker.end());
        }
        rested.into_iter().for_each(|rested| rested());
    }

    /// Ends a queue that is quiet, and starts it again if that was asked for meanwhile.
    fn end(self: &Arc<Self>) {
        let Some(serving) = self.lock().take_stopping() else {
            return;
        };
        let index = serving.next_avail();
        drop(serving);
        let (rested, waiting) = self.leave_stop(self.lock());
        rested.into_iter().for_each(|rested| rested());
        waiting.into_iter().for_each(|done| done(index));
    }

    /// Goes from the stop to what is next, in one step. Returns the callbacks of those who waited.
    fn leave_stop(
        self: &Arc<Self>,
        mut life: MutexGuard<'_, Life<M>>,
    ) -> (Vec<Rested>, Vec<Stopped>) {
        let Phase::Stopping(_, stop) = mem::take(&mut life.phase) else {
            return (Vec::new(), Vec::new());
        };
        let rested = life.take_rested();
        if let Some(setup) = stop.restart {
            self.restart(life, setup);
        }
        (rested, stop.waiting)
    }

    /// Does the start that waited for the stop. Its rings were checked when it came.
    fn restart(self: &Arc<Self>, life: MutexGuard<'_, Life<M>>, setup: QueueSetup) {
        let err = setup.err.clone();
        let started = Serving::new(&setup)
            .and_then(|serving| self.launch(life, Box::new(serving), setup.kick));
        let Err(error) = started else {
            return;
        };
        self.lock().refused = Some(NOT_AGAIN);
        let reason = format!("{}: {error}", NOT_AGAIN.reason());
        self.report(QueueFault { reason, err });
    }

    /// See [`super::VirtioDevice::stop_queue`].
    fn stop(self: &Arc<Self>, done: Stopped) {
        let mut life = self.lock();
        match mem::take(&mut life.phase) {
            Phase::Idle => {
                drop(life);
                return done(0);
            }
            Phase::Running(serving) => {
                let stop = Stop {
                    waiting: vec![done],
                    ..Stop::default()
                };
                life.phase = Phase::Stopping(Some(serving), stop);
            }
            Phase::Stopping(serving, mut stop) => {
                // Cancels the pending restart; it never ran.
                stop.restart = None;
                stop.waiting.push(done);
                life.phase = Phase::Stopping(serving, stop);
                return;
            }
        }
        self.unwatch(&mut life);
        drop(life);
        let worker = Arc::clone(self);
        self.aio
            .schedule_oneshot("virtio-queue-stop", move || worker.serve());
    }

    /// See [`super::VirtioDevice::hold`].
    fn hold(&self, rested: Rested) {
        let mut life = self.lock();
        life.holds += 1;
        if life.rests() {
            drop(life);
            return rested();
        }
        life.resting.push(rested);
        drop(life);
        // The batch tells the model.
        self.resume.schedule();
    }

    /// See [`super::VirtioDevice::release`].
    fn release(&self) {
        let mut life = self.lock();
        life.holds = life.holds.saturating_sub(1);
        life.was_released |= life.holds == 0;
        let rested = life.take_rested();
        drop(life);
        self.resume.schedule();
        rested.into_iter().for_each(|rested| rested());
    }

    /// See [`super::VirtioDevice::set_call`].
    fn set_call(&self, call: Option<Arc<dyn Signal>>) {
        if let Some(serving) = self.lock().serving() {
            serving.set_call(call);
        }
    }

    /// See [`super::VirtioDevice::set_kick`].
    fn set_kick(self: &Arc<Self>, kick: Option<KickFd>) -> Result<()> {
        let mut life = self.lock();
        let intake = life.intake();
        let Phase::Running(serving) = &mut life.phase else {
            return Ok(());
        };
        if serving.broken().is_some() {
            return Ok(());
        }
        if let Some(kick) = &kick {
            self.watch(kick)?;
        }
        // A handler that goes away does not hear that polling has ended.
        serving.set_polling(false, intake);
        let is_same = |old: &KickFd| kick.as_ref().map(KickFd::as_raw_fd) == Some(old.as_raw_fd());
        if !life.kick.as_ref().is_some_and(is_same) {
            self.unwatch(&mut life);
        }
        life.kick = kick;
        drop(life);
        self.resume.schedule();
        Ok(())
    }

    /// After a panic in a batch the life is still consistent; the queue just does not go on.
    fn lock(&self) -> MutexGuard<'_, Life<M>> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Model> ReadyQueue for QueueWorker<M> {
    fn ready(&self) {
        self.batch(BatchCause::Completion);
    }

    fn faults(&self) -> (&FaultReporter, u16) {
        (&self.faults, self.index)
    }
}

/// Callbacks hold workers weakly; `keep` keeps a running one (invariant 1).
fn with<M: Model, T>(
    worker: &Weak<QueueWorker<M>>,
    act: impl FnOnce(&QueueWorker<M>) -> T,
) -> Option<T> {
    worker.upgrade().map(|worker| act(&worker))
}
