//! The vcpus of a machine: a thread for each, which are run, paused and stopped together.
//!
//! A vcpu's thread runs guest code and answers trapped accesses, nothing else. To pause or stop it, a thread stores the
//! `RunRequest` and sends the vcpu's thread a signal. The signal's handler makes the current or next entry into the guest end
//! at once (see `kick`), and the vcpu then reads the request.
//!
//! * `run`: the vcpu's thread
//! * `kick`: the signal
//! * `real_mode`: the registers of a vcpu that starts in real mode
//!
//! # Threads
//! Any thread may pause, resume or stop. Only two functions wait for vcpus: `VcpuSet::start`, until the threads have started,
//! and `VcpuSet::stop`. A vcpu takes the locks here only when it starts, parks or ends; no access to a device takes them, except
//! one that ends the machine.
//!
//! # Invariants
//! 1. A request is stored before the signal is sent, and a vcpu clears the early exit before it reads the request. So no request
//!    is missed.
//! 2. The threads in `threads` have not been joined, so they may be signalled.
#![deny(unsafe_code)] // children that need it say why

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use kvm_ioctls::VcpuFd;

use super::bus::Bus;
use crate::{Error, ErrorKind, QContext, Resource, Result};

mod kick;
mod real_mode;
mod run;

pub use real_mode::RealMode;

/// Why a machine ended by itself.
#[derive(Debug)]
pub enum MachineEnd {
    /// The guest switched it off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// A vcpu had a fault while it delivered a double fault.
    TripleFault,
    /// A vcpu cannot go on.
    Failed(Error),
}

/// Sets the registers of a new vcpu, given its number.
pub type PrepareVcpu = Arc<dyn Fn(u32, &VcpuFd) -> Result<()> + Send + Sync>;

/// Called once on the machine's context, when no vcpu runs.
type PauseDone = Box<dyn FnOnce() + Send>;
/// Called once on the machine's context, when the machine has ended by itself.
type EndCallback = Box<dyn FnOnce(MachineEnd) + Send>;

/// The devices that answer trapped accesses.
#[derive(Clone, Debug)]
pub(super) struct Buses {
    pub(super) pio: Arc<Bus>,
    pub(super) mmio: Arc<Bus>,
}

/// What all vcpus are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum RunRequest {
    Run,
    Pause,
    Stop,
}

/// All vcpus of a machine.
pub(super) struct VcpuSet {
    request: AtomicU8,
    parking: Mutex<Parking>,
    /// Notified when the request or the number of running vcpus changes.
    changed: Condvar,
    /// `None` once it was called, and after a stop.
    ended: Mutex<Option<EndCallback>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// One for each vcpu.
    handles: Mutex<Arc<[VcpuHandle]>>,
    context: QContext,
}

/// What other threads can see of a vcpu.
#[derive(Debug)]
pub(super) struct VcpuHandle {
    /// -1 before its thread has started and after it has ended.
    thread_id: AtomicI64,
    parked: AtomicBool,
}

/// What a vcpu does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VcpuState {
    /// It runs guest code, answers an access, or sleeps in KVM because the guest has halted it. KVM does not say which.
    Running,
    /// It waits until the machine is resumed.
    Paused,
    /// It has no thread any more.
    Gone,
}

/// The name of a vcpu's thread.
pub(super) fn thread_name(index: usize) -> String {
    format!("vcpu{index}")
}

impl VcpuState {
    /// The state's name, as the object tree shows it.
    pub fn name(self) -> &'static str {
        match self {
            VcpuState::Running => "running",
            VcpuState::Paused => "paused",
            VcpuState::Gone => "gone",
        }
    }
}

/// The state of a vcpu at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuInfo {
    /// The kernel's id of its thread, -1 without one.
    pub thread_id: i64,
    /// Its state.
    pub state: VcpuState,
}

impl VcpuHandle {
    fn new() -> VcpuHandle {
        VcpuHandle {
            thread_id: AtomicI64::new(-1),
            parked: AtomicBool::new(false),
        }
    }

    fn info(&self) -> VcpuInfo {
        let thread_id = self.thread_id.load(Ordering::Acquire);
        let state = match (thread_id, self.parked.load(Ordering::Acquire)) {
            (..0, _) => VcpuState::Gone,
            (_, true) => VcpuState::Paused,
            (_, false) => VcpuState::Running,
        };
        VcpuInfo { thread_id, state }
    }
}

#[derive(Default)]
struct Parking {
    /// Vcpus that have a thread and are not parked.
    running: usize,
    /// Called when none is running.
    waiting: Vec<PauseDone>,
}

impl VcpuSet {
    pub(super) fn new(context: QContext) -> VcpuSet {
        VcpuSet {
            request: AtomicU8::new(RunRequest::Pause as u8),
            parking: Mutex::default(),
            changed: Condvar::new(),
            ended: Mutex::default(),
            threads: Mutex::default(),
            handles: Mutex::new(Arc::new([])),
            context,
        }
    }

    /// Starts a thread for each vcpu; they are parked when this returns.
    pub(super) fn start(
        self: &Arc<Self>,
        vcpus: Vec<VcpuFd>,
        buses: &Buses,
        ended: EndCallback,
    ) -> Result<()> {
        kick::install()?;
        *lock(&self.ended) = Some(ended);
        let handles: Arc<[VcpuHandle]> = vcpus.iter().map(|_| VcpuHandle::new()).collect();
        *lock(&self.handles) = Arc::clone(&handles);
        lock(&self.parking).running = vcpus.len();
        for (index, vcpu) in vcpus.into_iter().enumerate() {
            let (set, buses, handles) = (Arc::clone(self), buses.clone(), Arc::clone(&handles));
            let spawned = thread::Builder::new()
                .name(thread_name(index))
                .spawn(move || {
                    let handle = &handles[index];
                    handle.thread_id.store(kick::thread_id(), Ordering::Release);
                    run::run(&set, handle, vcpu, &buses);
                });
            let thread = spawned.map_err(|error| {
                self.stop();
                let what = format!("cannot start a thread for vcpu {index}");
                Error::limited(what, error, Resource::Thread)
            })?;
            lock(&self.threads).push(thread);
        }
        drop(self.wait_while(|parking| parking.running > 0));
        Ok(())
    }

    pub(super) fn vcpus(&self) -> Vec<VcpuInfo> {
        let handles = Arc::clone(&lock(&self.handles));
        handles.iter().map(VcpuHandle::info).collect()
    }

    pub(super) fn is_running(&self) -> bool {
        self.request() == RunRequest::Run
    }

    /// See [`super::Machine::pause`].
    pub(super) fn pause(&self, done: PauseDone) {
        let mut parking = lock(&self.parking);
        if self.request() == RunRequest::Run {
            self.set_request(RunRequest::Pause);
        }
        parking.waiting.push(done);
        let waiting = parking.take_waiting();
        drop(parking);
        self.complete(waiting);
        self.kick();
    }

    /// See [`super::Machine::resume`].
    pub(super) fn resume(&self) {
        let mut parking = lock(&self.parking);
        // Completes pending pauses: for the caller, an immediate resume equals a very short pause.
        let waiting = std::mem::take(&mut parking.waiting);
        if self.request() == RunRequest::Pause {
            self.set_request(RunRequest::Run);
        }
        drop(parking);
        self.changed.notify_all();
        self.complete(waiting);
    }

    /// See [`super::MachineControls::end`].
    pub(super) fn end(&self, end: MachineEnd) {
        let ended = lock(&self.ended).take();
        self.ask_to_stop();
        if let Some(ended) = ended {
            // Fails if the context has been stopped; then nothing waits for the end.
            let _ = self.context.invoke(move || ended(end));
        }
    }

    /// See [`super::Machine::stop`].
    pub(super) fn stop(&self) {
        let ended = lock(&self.ended).take();
        // Dropped without the lock, because it is the caller's code.
        drop(ended);
        self.ask_to_stop();
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads {
            // A panic of a vcpu has been reported by `run`.
            let _ = thread.join();
        }
    }

    fn ask_to_stop(&self) {
        let parking = lock(&self.parking);
        self.set_request(RunRequest::Stop);
        drop(parking);
        self.changed.notify_all();
        self.kick();
    }

    fn kick(&self) {
        for thread in &*lock(&self.threads) {
            kick::kick(thread);
        }
    }

    fn complete(&self, waiting: Vec<PauseDone>) {
        for done in waiting {
            let _ = self.context.invoke(done);
        }
    }

    fn request(&self) -> RunRequest {
        match self.request.load(Ordering::SeqCst) {
            0 => RunRequest::Run,
            1 => RunRequest::Pause,
            _ => RunRequest::Stop,
        }
    }

    fn set_request(&self, request: RunRequest) {
        self.request.store(request as u8, Ordering::SeqCst);
    }

    fn wait_while(&self, holds: impl FnMut(&mut Parking) -> bool) -> MutexGuard<'_, Parking> {
        self.changed
            .wait_while(lock(&self.parking), holds)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// On a vcpu's thread: waits until the request is not to pause, and answers it.
    fn park(&self, handle: &VcpuHandle) -> RunRequest {
        let mut parking = lock(&self.parking);
        parking.running -= 1;
        handle.parked.store(true, Ordering::Release);
        let waiting = parking.take_waiting();
        drop(parking);
        self.changed.notify_all();
        self.complete(waiting);
        let mut resumed = self.wait_while(|_| self.request() == RunRequest::Pause);
        resumed.running += 1;
        handle.parked.store(false, Ordering::Release);
        drop(resumed);
        self.request()
    }

    /// On a vcpu's thread, at its end.
    fn leave(&self, handle: &VcpuHandle) {
        let mut parking = lock(&self.parking);
        parking.running -= 1;
        handle.thread_id.store(-1, Ordering::Release);
        let waiting = parking.take_waiting();
        drop(parking);
        self.changed.notify_all();
        self.complete(waiting);
    }
}

impl Parking {
    /// The pauses that are complete.
    fn take_waiting(&mut self) -> Vec<PauseDone> {
        match self.running {
            0 => std::mem::take(&mut self.waiting),
            _ => Vec::new(),
        }
    }
}

impl fmt::Debug for VcpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VcpuSet")
            .field("request", &self.request())
            .finish_non_exhaustive()
    }
}

/// Locks a mutex. A panic of a holder leaves the data consistent, because no callback runs under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The end of a vcpu that cannot go on.
fn broken(message: String) -> MachineEnd {
    MachineEnd::Failed(Error::new(ErrorKind::Unsupported, message))
}
