//! What a device model tells the workers of its queues.
//!
//! Implemented by models: [`Model`] for what all queues share, [`QueueModel`] for one started queue. A model sees chains
//! and its configuration space. It never sees a socket, a hypervisor or a ring's indices, and no transport sees into its
//! requests. With a [`ModelType`](crate::virtio::pluggable::ModelType) besides, `-device` finds it.
#![forbid(unsafe_code)]

use std::sync::Weak;

use gsource::AioContext;

use super::ConfigNotice;
use super::answers::Answers;
use crate::Result;
use crate::object::{Dict, Value};
use crate::schema::EventType;
use crate::virtio::DeviceLimits;
use crate::virtio::fault::{FaultReporter, IoStatus, RequestFailure};
use crate::virtio::pluggable::FinishCallback;
use crate::virtio::queue::{Broken, Chain};

/// A virtio device, except for the lives of its queues, which the workers have.
///
/// Any thread may call the methods; [`open_queue`](Model::open_queue) is called on the thread that drives the queue.
pub trait Model: Send + Sync + 'static {
    /// A started queue of the device.
    type Queue: QueueModel;

    /// The number of the device's type, as section 5 of the specification lists them.
    fn device_type(&self) -> u32;

    /// The feature bits on offer. Never bit 30, which belongs to vhost-user.
    fn features(&self, limits: DeviceLimits) -> u64;

    /// Reads configuration space; beyond its end it reads as 0.
    fn read_config(&self, limits: DeviceLimits, offset: usize, data: &mut [u8]);

    /// Writes configuration space; what is not writable is ignored.
    fn write_config(&self, offset: usize, data: &[u8]);

    /// Takes the handle by which the model says that its configuration space has changed. Called once, before anything
    /// else.
    fn set_config_notice(&self, _notice: ConfigNotice) {}

    /// The value of one of the properties that the model lists in its
    /// [`ModelType`](crate::virtio::pluggable::ModelType); `None` for any other name.
    fn property(&self, _name: &str) -> Option<Value> {
        None
    }

    /// Finishes the device's work when its queues have stopped for good: what the guest saw finished becomes durable.
    /// Called on the home thread of `control`; calls `done` there once, now or in a callback of `control`.
    fn finish(&self, _control: &AioContext, done: FinishCallback) {
        done(Ok(()));
    }

    /// Begins the work of a queue that starts. The model calls `handle` when something completes later. When the queue has
    /// stopped, what is returned is dropped; no chain is kept then.
    ///
    /// # Errors
    /// The host has no resources for it. The queue counts as broken then, and the transport tells the guest.
    fn open_queue(&self, index: u16, aio: &AioContext, handle: QueueHandle) -> Result<Self::Queue>;
}

/// One started queue of a model, called on the thread that drives the queue's AioContext, under the queue's lock.
pub trait QueueModel: Send + 'static {
    /// Serves a chain: answers it, or keeps it and completes it later.
    ///
    /// # Errors
    /// The guest broke the rules in a way that has no answer, so the queue is broken.
    fn serve(
        &mut self,
        chain: &Chain<'_>,
        answers: &mut Answers,
    ) -> std::result::Result<(), Broken>;

    /// Completes the kept chains whose work is done. Asked at the beginning of each batch, and after
    /// [`QueueHandle::ready`].
    fn complete(&mut self, _answers: &mut Answers) {}

    /// An iteration's work begins. What a model does at once may be limited per iteration.
    fn begin_iteration(&mut self) {}

    /// Whether this iteration has done as much as it may. The rest waits for the next one, so that neighbours on the same
    /// context get their turn.
    fn is_spent(&self) -> bool {
        false
    }

    /// The device goes on after it was held: repeats the requests that were [parked](Answers::set_parked).
    fn repeat_parked(&mut self, _answers: &mut Answers) {}

    /// The queue is to stop: answers the requests that were parked, and parks none from now on. Called in each batch until the
    /// queue has stopped.
    fn give_up_parked(&mut self, _answers: &mut Answers) {}

    /// The queue begins or ends to stop or to rest. Until it ends, kept chains should be completed without waits that the model
    /// adds by itself.
    fn hurry(&mut self, _is_hurried: bool) {}

    /// The batch has no more chains: hands on what was collected.
    fn end_batch(&mut self) {}

    /// The guest is about to see finished chains: stores the statistics, so that a reader who learns of a completion from
    /// the guest finds it counted.
    fn before_publish(&mut self) {}
}

/// Why a request failed, as a model says it.
#[derive(Clone, Debug)]
pub struct FailureReport {
    /// What was asked for and why it failed.
    pub reason: String,
    /// The event for management, if the host is the cause. Its data are without the device's path.
    pub event: Option<(&'static EventType, Dict)>,
    /// The request is parked until the device goes on; see [`RequestFailure::stops`].
    pub stops: Option<IoStatus>,
}

/// A model's way back to one of its queues. Does not keep it.
#[derive(Clone)]
pub struct QueueHandle(Weak<dyn ReadyQueue>);

/// A queue that a model has something for.
pub(super) trait ReadyQueue: Send + Sync {
    /// See [`QueueHandle::ready`].
    fn ready(&self);

    /// Where failures are reported, and the index of the queue.
    fn faults(&self) -> (&FaultReporter, u16);
}

impl QueueHandle {
    pub(super) fn new(queue: Weak<dyn ReadyQueue>) -> QueueHandle {
        QueueHandle(queue)
    }

    /// There is something to [complete](QueueModel::complete): runs a batch, if the queue runs. Call it on the thread that
    /// drives the queue's AioContext, and not from within the queue.
    pub fn ready(&self) {
        if let Some(queue) = self.0.upgrade() {
            queue.ready();
        }
    }

    /// Reports a request that failed, for those who run the host; the guest learns of it by its answer. Any thread may call
    /// it, also from within the queue.
    pub fn request_failed(&self, describe: impl FnOnce() -> FailureReport) {
        let Some(queue) = self.0.upgrade() else {
            return;
        };
        let (faults, queue) = queue.faults();
        faults.request_failed(|| {
            let FailureReport {
                reason,
                event,
                stops,
            } = describe();
            RequestFailure {
                queue,
                reason,
                event,
                stops,
            }
        });
    }

    /// Whether a request may be parked: somebody hears of it who lets the device go on.
    pub fn may_park(&self) -> bool {
        let queue = self.0.upgrade();
        queue.is_some_and(|queue| queue.faults().0.is_watched())
    }
}

impl std::fmt::Debug for QueueHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueHandle").finish_non_exhaustive()
    }
}
