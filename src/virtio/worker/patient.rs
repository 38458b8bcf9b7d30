//! For tests: a model whose queues keep every chain until the test lets them finish, and a driver for it.
//!
//! Used by the tests of the worker and of the transports.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use gsource::{AioContext, Wait};
use rustix::event::{EventfdFlags, eventfd};
use support::mock_driver::{Buffer, RAM_START, Ram, Ring};

use super::{Answers, ConfigNotice, Model, QueueHandle, QueueModel, Tag, WorkerDevice};
use crate::virtio::fault::{DeviceFault, FaultWatcher, RequestFailure};
use crate::virtio::memory::{GuestMemory, MemoryRegion};
use crate::virtio::notify::{KickFd, Signal};
use crate::virtio::pluggable::PluggableDevice;
use crate::virtio::queue::{Broken, Chain};
use crate::virtio::{DeviceLimits, F_EVENT_IDX, F_VERSION_1, QueueSetup, VirtioDevice};
use crate::{Error, ErrorKind, Result};

/// What a completed chain has in its last byte.
pub(crate) const DONE: u8 = 0x5a;

/// The model.
#[derive(Default)]
pub(crate) struct PatientModel(Arc<Patience>);

/// The test's end of the model.
#[derive(Default)]
pub(crate) struct Patience {
    /// Queues that were opened, in that order.
    pub(crate) opened: Mutex<Vec<u16>>,
    pub(crate) ended: AtomicU32,
    pub(crate) refuses: AtomicBool,
    pub(crate) notice: Mutex<Option<ConfigNotice>>,
    /// Runs when the next queue ends.
    pub(crate) at_end: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    /// How often chains were repeated that were parked.
    pub(crate) repeated: AtomicU32,
    /// How many were given up.
    pub(crate) given_up: AtomicU32,
    kept: AtomicU32,
    finishes: AtomicBool,
    parks: AtomicBool,
    handles: Mutex<Vec<QueueHandle>>,
}

/// One of its queues.
pub(crate) struct PatientQueue {
    patience: Arc<Patience>,
    kept: Vec<Tag>,
}

impl Patience {
    /// How many chains wait.
    pub(crate) fn kept(&self) -> u32 {
        self.kept.load(Ordering::SeqCst)
    }

    /// Completes what waits in all queues.
    pub(crate) fn finish(&self) {
        self.once(&self.finishes);
    }

    /// Parks what waits in all queues.
    pub(crate) fn park(&self) {
        self.once(&self.parks);
    }

    fn once(&self, what: &AtomicBool) {
        what.store(true, Ordering::SeqCst);
        let handles = self.handles.lock().unwrap().clone();
        handles.iter().for_each(QueueHandle::ready);
        what.store(false, Ordering::SeqCst);
    }
}

impl PatientModel {
    /// A device with queues on `contexts`.
    pub(crate) fn device(
        contexts: Vec<AioContext>,
    ) -> (Arc<WorkerDevice<PatientModel>>, Arc<Patience>) {
        let patience = Arc::new(Patience::default());
        let model = PatientModel(Arc::clone(&patience));
        let device = WorkerDevice::with_queues(model, contexts).unwrap();
        (Arc::new(device), patience)
    }
}

impl Model for PatientModel {
    type Queue = PatientQueue;

    fn device_type(&self) -> u32 {
        2
    }

    fn features(&self, _: DeviceLimits) -> u64 {
        F_VERSION_1
    }

    fn read_config(&self, limits: DeviceLimits, _: usize, data: &mut [u8]) {
        data.fill(limits.queue_size.to_le_bytes()[0]);
    }

    fn write_config(&self, _: usize, _: &[u8]) {}

    fn set_config_notice(&self, notice: ConfigNotice) {
        *self.0.notice.lock().unwrap() = Some(notice);
    }

    fn open_queue(&self, index: u16, _: &AioContext, handle: QueueHandle) -> Result<PatientQueue> {
        if self.0.refuses.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::LimitExceeded, "no resources"));
        }
        self.0.opened.lock().unwrap().push(index);
        self.0.handles.lock().unwrap().push(handle);
        Ok(PatientQueue {
            patience: Arc::clone(&self.0),
            kept: Vec::new(),
        })
    }
}

impl QueueModel for PatientQueue {
    fn serve(
        &mut self,
        chain: &Chain<'_>,
        answers: &mut Answers,
    ) -> std::result::Result<(), Broken> {
        self.kept.push(answers.keep(chain));
        self.patience.kept.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn complete(&mut self, answers: &mut Answers) {
        if self.patience.finishes.load(Ordering::SeqCst) {
            self.complete_all(answers);
        } else if self.patience.parks.load(Ordering::SeqCst) {
            answers.set_parked(self.kept.len());
        }
    }

    fn repeat_parked(&mut self, answers: &mut Answers) {
        self.patience.repeated.fetch_add(1, Ordering::SeqCst);
        answers.set_parked(0);
    }

    fn give_up_parked(&mut self, answers: &mut Answers) {
        let count = answers.parked();
        if count > 0 {
            let count = u32::try_from(count).unwrap();
            self.patience.given_up.fetch_add(count, Ordering::SeqCst);
            self.complete_all(answers);
        }
    }
}

impl PatientQueue {
    fn complete_all(&mut self, answers: &mut Answers) {
        for tag in self.kept.drain(..) {
            answers.complete_with_status(tag, 0, DONE);
            self.patience.kept.fetch_sub(1, Ordering::SeqCst);
        }
        answers.set_parked(0);
    }
}

impl Drop for PatientQueue {
    fn drop(&mut self) {
        self.patience.ended.fetch_add(1, Ordering::SeqCst);
        let at_end = self.patience.at_end.lock().unwrap().take();
        at_end.into_iter().for_each(|act| act());
    }
}

/// Counts signals.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU32);

impl Counter {
    pub(crate) fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Signal for Counter {
    fn signal(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// The owner of a device: keeps what it hears.
#[derive(Debug, Default)]
pub(crate) struct Owner {
    pub(crate) faults: Mutex<Vec<DeviceFault>>,
    pub(crate) failures: Mutex<Vec<RequestFailure>>,
}

impl Owner {
    /// The owner of that device.
    pub(crate) fn of(device: &dyn PluggableDevice) -> Arc<Owner> {
        let owner = Arc::new(Owner::default());
        let watcher: Arc<dyn FaultWatcher> = Arc::<Owner>::clone(&owner);
        device.watch_faults(Arc::downgrade(&watcher));
        owner
    }

    /// What was heard of queues, as text.
    pub(crate) fn faults(&self) -> Vec<String> {
        let faults = self.faults.lock().unwrap().clone();
        faults
            .into_iter()
            .map(|fault| format!("{:?} {}", fault.queue, fault.reason))
            .collect()
    }
}

impl FaultWatcher for Owner {
    fn broken(&self, fault: DeviceFault) {
        self.faults.lock().unwrap().push(fault);
    }

    fn request_failed(&self, failure: RequestFailure) {
        self.failures.lock().unwrap().push(failure);
    }
}

/// Where the driver's one-byte buffers are.
const BYTE: u64 = RAM_START + 0x8_0000;

/// A guest with one queue of eight entries for each queue of a device, and the loop that drives the device.
pub(crate) struct Driver {
    pub(crate) aio: AioContext,
    pub(crate) device: Arc<WorkerDevice<PatientModel>>,
    pub(crate) patience: Arc<Patience>,
    pub(crate) ram: Ram,
    pub(crate) rings: Vec<Ring>,
    pub(crate) kicks: Vec<KickFd>,
    pub(crate) call: Arc<Counter>,
    pub(crate) err: Arc<Counter>,
}

impl Driver {
    pub(crate) fn new(queues: usize, event_idx: bool) -> Driver {
        let aio = AioContext::new().unwrap();
        let (device, patience) = PatientModel::device(vec![aio.clone(); queues]);
        let mut ram = Ram::new(1 << 20);
        Driver {
            aio,
            device,
            patience,
            rings: (0..queues)
                .map(|_| Ring::new(&mut ram, 8, event_idx, false))
                .collect(),
            kicks: (0..queues)
                .map(|_| KickFd::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap()).unwrap())
                .collect(),
            ram,
            call: Arc::default(),
            err: Arc::default(),
        }
    }

    /// With all queues started.
    pub(crate) fn started(queues: usize, event_idx: bool) -> Driver {
        let driver = Driver::new(queues, event_idx);
        for index in 0..queues {
            driver.start(index, 0).unwrap();
        }
        driver.iterate();
        driver
    }

    pub(crate) fn memory(&self) -> GuestMemory {
        let region = MemoryRegion {
            guest_addr: RAM_START,
            size: self.ram.size(),
            user_addr: 0,
            fd: self.ram.fd(),
            offset: 0,
        };
        GuestMemory::new().with_region(region).unwrap()
    }

    pub(crate) fn setup(&self, index: usize, next_avail: u16) -> QueueSetup {
        let ring = &self.rings[index];
        QueueSetup {
            size: ring.size,
            descriptors: ring.descriptors,
            available: ring.available,
            used: ring.used,
            next_avail,
            features: F_VERSION_1 | if ring.event_idx { F_EVENT_IDX } else { 0 },
            memory: self.memory(),
            kick: Some(self.kicks[index].clone()),
            call: Some(Arc::<Counter>::clone(&self.call)),
            err: Some(Arc::<Counter>::clone(&self.err)),
        }
    }

    pub(crate) fn start(&self, index: usize, next_avail: u16) -> Result<()> {
        let setup = self.setup(index, next_avail);
        self.device
            .start_queue(u16::try_from(index).unwrap(), setup)
    }

    /// Asks for a stop; where the queue stopped, once it has.
    pub(crate) fn stop(&self, index: u16) -> Arc<Mutex<Option<u16>>> {
        let stopped = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&stopped);
        let done = move |next| *tell.lock().unwrap() = Some(next);
        self.device.stop_queue(index, Box::new(done));
        stopped
    }

    /// Makes a chain of one byte available, and kicks if the device wants to be kicked.
    pub(crate) fn put(&mut self, index: usize) {
        let byte = Buffer {
            address: BYTE,
            len: 1,
            writable: true,
        };
        let ring = &mut self.rings[index];
        ring.add(&self.ram, &[byte]).unwrap();
        if ring.publish(&self.ram) {
            self.kicks[index].ring();
        }
    }

    /// Begins again with an empty ring, as a driver does after a reset.
    pub(crate) fn reset_ring(&mut self, index: usize) {
        let (size, event_idx) = (self.rings[index].size, self.rings[index].event_idx);
        self.rings[index] = Ring::new(&mut self.ram, size, event_idx, false);
    }

    /// How many chains have come back.
    pub(crate) fn take_used(&mut self, index: usize) -> usize {
        let ring = &mut self.rings[index];
        std::iter::from_fn(|| ring.take_used(&self.ram)).count()
    }

    pub(crate) fn iterate(&self) {
        while self.aio.poll(Wait::NoBlock).unwrap() {}
    }

    /// All of the guest's memory.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let size = usize::try_from(self.ram.size()).unwrap();
        self.ram.read(RAM_START, size)
    }
}

/// Holds a device; the counter says whether the holder was told that it rests.
pub(crate) fn hold(device: &dyn VirtioDevice) -> Arc<Counter> {
    let told = Arc::new(Counter::default());
    let tell = Arc::clone(&told);
    device.hold(Box::new(move || tell.signal()));
    told
}
