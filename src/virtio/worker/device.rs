//! A model with the workers of its queues, as transports see it.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use gsource::AioContext;

use super::{Model, QueueWorker};
use crate::object::Value;
use crate::virtio::fault::{DeviceFault, FaultReporter, FaultWatcher};
use crate::virtio::notify::{CallFd, KickFd, Signal};
use crate::virtio::pluggable::{FinishCallback, PluggableDevice};
use crate::virtio::queue::{Broken, SIZE_MAX};
use crate::virtio::{Countdown, DeviceLimits, QueueSetup, Rested, Stopped, VirtioDevice};
use crate::{Error, ErrorKind, Result};

/// The most queues that a device has.
pub const QUEUES_MAX: usize = 1024;

/// A virtio device: a model, and a worker for each of its queues.
///
/// Dropping it stops the queues. Those that run finish what is in flight; their memory and the model live until then.
pub struct WorkerDevice<M: Model> {
    model: Arc<M>,
    queues: Box<[Arc<QueueWorker<M>>]>,
    notice: ConfigNotice,
    faults: FaultReporter,
}

/// By which a model says that its configuration space has changed. Clones are the same one.
#[derive(Clone)]
pub struct ConfigNotice(Arc<Mutex<Weak<dyn Signal>>>);

impl ConfigNotice {
    fn new() -> ConfigNotice {
        let no_signal: Weak<CallFd> = Weak::new();
        ConfigNotice(Arc::new(Mutex::new(no_signal)))
    }

    /// Tells the transport, which tells the guest. Any thread may call it.
    pub fn signal(&self) {
        let listener = self.lock().upgrade();
        if let Some(listener) = listener {
            listener.signal();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Weak<dyn Signal>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Model> WorkerDevice<M> {
    /// A device of `model` with one queue for each of `contexts`.
    ///
    /// # Errors
    /// `InvalidArgument` without a context or with more than [`QUEUES_MAX`].
    pub fn with_queues(model: M, contexts: Vec<AioContext>) -> Result<WorkerDevice<M>> {
        if contexts.is_empty() || contexts.len() > QUEUES_MAX {
            let message = format!("num-queues must be between 1 and {QUEUES_MAX}");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let notice = ConfigNotice::new();
        model.set_config_notice(notice.clone());
        let faults = FaultReporter::default();
        let model = Arc::new(model);
        let queues = (0..).zip(contexts);
        Ok(WorkerDevice {
            queues: queues
                .map(|(index, aio)| QueueWorker::new(&model, index, aio, &faults))
                .collect(),
            model,
            notice,
            faults,
        })
    }

    /// The model.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// How often the guest has kicked a queue, and how often that has called the guest; 0 for a queue that does not exist.
    pub fn notifications(&self, index: u16) -> (u64, u64) {
        let queue = self.queues.get(usize::from(index));
        queue.map_or((0, 0), |queue| {
            (queue.notifications.kicks(), queue.notifications.calls())
        })
    }

    /// Why a queue does not serve the guest, if it was started and does not.
    pub fn broken(&self, index: u16) -> Option<Broken> {
        self.queues.get(usize::from(index))?.broken()
    }

    #[cfg(test)]
    pub(super) fn worker(&self, index: usize) -> &QueueWorker<M> {
        &self.queues[index]
    }

    fn queue(&self, index: u16) -> Result<&Arc<QueueWorker<M>>> {
        self.queues.get(usize::from(index)).ok_or_else(|| {
            let count = self.queues.len();
            let message = format!("the device has {count} queues, there is no queue {index}");
            Error::new(ErrorKind::NotFound, message)
        })
    }
}

impl<M: Model> VirtioDevice for WorkerDevice<M> {
    fn device_type(&self) -> u32 {
        self.model.device_type()
    }

    fn features(&self, limits: DeviceLimits) -> u64 {
        self.model.features(limits)
    }

    fn queue_count(&self) -> u16 {
        u16::try_from(self.queues.len()).unwrap_or(u16::MAX)
    }

    fn queue_size_max(&self) -> u16 {
        SIZE_MAX
    }

    fn read_config(&self, limits: DeviceLimits, offset: usize, data: &mut [u8]) {
        self.model.read_config(limits, offset, data);
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        self.model.write_config(offset, data);
    }

    fn watch_config(&self, listener: Weak<dyn Signal>) {
        *self.notice.lock() = listener;
    }

    fn report(&self, fault: DeviceFault) {
        self.faults.broken(fault);
    }

    fn start_queue(&self, index: u16, setup: QueueSetup) -> Result<()> {
        self.queue(index)?.start(setup)
    }

    fn stop_queue(&self, index: u16, done: Stopped) {
        match self.queue(index) {
            Ok(queue) => queue.stop(done),
            Err(_) => done(0),
        }
    }

    fn is_started(&self, index: u16) -> bool {
        self.queue(index).is_ok_and(|queue| queue.is_started())
    }

    fn set_call(&self, index: u16, call: Option<Arc<dyn Signal>>) -> Result<()> {
        self.queue(index)?.set_call(call);
        Ok(())
    }

    fn set_kick(&self, index: u16, kick: Option<KickFd>) -> Result<()> {
        self.queue(index)?.set_kick(kick)
    }

    fn hold(&self, rested: Rested) {
        let all = Countdown::new(self.queues.len(), rested);
        for queue in &self.queues {
            queue.hold(all.part());
        }
    }

    fn release(&self) {
        for queue in &self.queues {
            queue.release();
        }
    }
}

impl<M: Model> PluggableDevice for WorkerDevice<M> {
    fn property(&self, name: &str) -> Option<Value> {
        self.model.property(name)
    }

    fn watch_faults(&self, watcher: Weak<dyn FaultWatcher>) {
        self.faults.set_watcher(watcher);
    }

    fn finish(&self, control: &AioContext, done: FinishCallback) {
        self.model.finish(control, done);
    }
}

impl<M: Model> Drop for WorkerDevice<M> {
    fn drop(&mut self) {
        for queue in &self.queues {
            queue.stop(Box::new(|_| ()));
        }
    }
}

impl<M: Model> fmt::Debug for WorkerDevice<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerDevice")
            .field("type", &self.model.device_type())
            .field("queues", &self.queues.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ConfigNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigNotice").finish_non_exhaustive()
    }
}
