//! The vcpus: a thread for each, and how they are directed.
//!
//! Used by the machine. A vcpu's thread does nothing but run guest code and answer its trapped accesses. To direct
//! it, somebody writes what is wanted and sends the thread a signal, whose handler makes the current or next
//! entry into the guest end at once (see `kick`).
//!
//! # Threads
//! Any thread directs; nothing here waits for a vcpu but `Crew::start`, for threads that are about to begin, and
//! `Crew::stop`. The locks here are taken by a vcpu when it parks, begins or ends, so of all accesses only by the one
//! that ends the machine.
//!
//! # Invariants
//! 1. What is wanted is written before the signal is sent; a vcpu withdraws the early exit before it looks at what is
//!    wanted. So no wish is missed.
//! 2. A handle in `threads` is of a thread that nobody has joined, so it may be signalled.
#![deny(unsafe_code)] // children that need it say why

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use kvm_ioctls::VcpuFd;

use super::bus::Bus;
use crate::{Error, ErrorKind, QContext, Result};

mod affinity;
mod kick;
mod real_mode;
mod run;

pub(super) use affinity::{affinity, set_affinity};
pub use real_mode::RealMode;

/// How a machine ended by itself.
#[derive(Debug)]
pub enum End {
    /// The guest switched it off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// A vcpu could not even report its fault.
    TripleFault,
    /// A vcpu cannot go on.
    Failed(Error),
}

/// Sets the registers of a fresh vcpu, given its number.
pub type Prepare = Arc<dyn Fn(u32, &VcpuFd) -> Result<()> + Send + Sync>;

/// Called once, on the machine's context.
type Done = Box<dyn FnOnce() + Send>;
type Ended = Box<dyn FnOnce(End) + Send>;

/// What answers trapped accesses.
#[derive(Clone, Debug)]
pub(super) struct Buses {
    pub(super) pio: Arc<Bus>,
    pub(super) mmio: Arc<Bus>,
}

/// What a vcpu is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Wish {
    Run,
    Pause,
    Stop,
}

/// All vcpus of a machine, and what is wanted of them.
pub(super) struct Crew {
    wish: AtomicU8,
    parking: Mutex<Parking>,
    /// Told when the wish or the number of running vcpus changes.
    changed: Condvar,
    /// Who is told of the end, until it is told.
    ended: Mutex<Option<Ended>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// By vcpu.
    members: Mutex<Arc<[Member]>>,
    context: QContext,
}

/// What others may know of a vcpu.
#[derive(Debug)]
pub(super) struct Member {
    /// -1 before its thread has begun and after it has ended.
    thread_id: AtomicI64,
    parked: AtomicBool,
}

/// What a vcpu does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VcpuState {
    /// It is in the guest, answers an access, or sleeps in KVM because the guest has halted it, which KVM does not tell apart.
    Running,
    /// It waits to go on.
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

/// A vcpu as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vcpu {
    /// The kernel's id of its thread, -1 without one.
    pub thread_id: i64,
    /// What it does.
    pub state: VcpuState,
}

impl Member {
    fn new() -> Member {
        Member {
            thread_id: AtomicI64::new(-1),
            parked: AtomicBool::new(false),
        }
    }

    fn look(&self) -> Vcpu {
        let thread_id = self.thread_id.load(Ordering::Acquire);
        let state = match (thread_id, self.parked.load(Ordering::Acquire)) {
            (..0, _) => VcpuState::Gone,
            (_, true) => VcpuState::Paused,
            (_, false) => VcpuState::Running,
        };
        Vcpu { thread_id, state }
    }
}

#[derive(Default)]
struct Parking {
    /// Vcpus that have a thread and are not parked.
    running: usize,
    /// Who waits until none is running.
    waiting: Vec<Done>,
}

impl Crew {
    pub(super) fn new(context: QContext) -> Crew {
        Crew {
            wish: AtomicU8::new(Wish::Pause as u8),
            parking: Mutex::default(),
            changed: Condvar::new(),
            ended: Mutex::default(),
            threads: Mutex::default(),
            members: Mutex::new(Arc::new([])),
            context,
        }
    }

    /// Starts a thread for each vcpu; they are parked when this returns.
    pub(super) fn start(
        self: &Arc<Self>,
        vcpus: Vec<VcpuFd>,
        buses: &Buses,
        ended: Ended,
    ) -> Result<()> {
        kick::install()?;
        *lock(&self.ended) = Some(ended);
        let members: Arc<[Member]> = vcpus.iter().map(|_| Member::new()).collect();
        *lock(&self.members) = Arc::clone(&members);
        lock(&self.parking).running = vcpus.len();
        for (index, vcpu) in vcpus.into_iter().enumerate() {
            let (crew, buses, members) = (Arc::clone(self), buses.clone(), Arc::clone(&members));
            let spawned = thread::Builder::new()
                .name(thread_name(index))
                .spawn(move || {
                    let member = &members[index];
                    member.thread_id.store(kick::thread_id(), Ordering::Release);
                    run::run(&crew, member, vcpu, &buses);
                });
            let thread = spawned.map_err(|error| {
                self.stop();
                Error::os(format!("cannot start a thread for vcpu {index}"), error)
            })?;
            lock(&self.threads).push(thread);
        }
        drop(self.wait_while(|parking| parking.running > 0));
        Ok(())
    }

    pub(super) fn vcpus(&self) -> Vec<Vcpu> {
        let members = Arc::clone(&lock(&self.members));
        members.iter().map(Member::look).collect()
    }

    pub(super) fn is_running(&self) -> bool {
        self.wish() == Wish::Run
    }

    /// See [`super::Machine::pause`].
    pub(super) fn pause(&self, done: Done) {
        let mut parking = lock(&self.parking);
        if self.wish() == Wish::Run {
            self.set_wish(Wish::Pause);
        }
        parking.waiting.push(done);
        let waiting = parking.take_waiting();
        drop(parking);
        self.tell(waiting);
        self.kick();
    }

    /// See [`super::Machine::resume`].
    pub(super) fn resume(&self) {
        let mut parking = lock(&self.parking);
        // Whoever still waits for a pause is overtaken: it was one for a moment, as far as anybody can tell.
        let waiting = std::mem::take(&mut parking.waiting);
        if self.wish() == Wish::Pause {
            self.set_wish(Wish::Run);
        }
        drop(parking);
        self.changed.notify_all();
        self.tell(waiting);
    }

    /// See [`super::Controls::end`].
    pub(super) fn end(&self, end: End) {
        let ended = lock(&self.ended).take();
        self.ask_to_stop();
        if let Some(ended) = ended {
            // A context that is gone has nobody who would want to know.
            let _ = self.context.invoke(move || ended(end));
        }
    }

    /// See [`super::Machine::stop`].
    pub(super) fn stop(&self) {
        let ended = lock(&self.ended).take();
        // Dropped without the lock, as it is the owner's code.
        drop(ended);
        self.ask_to_stop();
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads {
            // A vcpu that panicked has said so.
            let _ = thread.join();
        }
    }

    fn ask_to_stop(&self) {
        let parking = lock(&self.parking);
        self.set_wish(Wish::Stop);
        drop(parking);
        self.changed.notify_all();
        self.kick();
    }

    fn kick(&self) {
        for thread in &*lock(&self.threads) {
            kick::kick(thread);
        }
    }

    fn tell(&self, waiting: Vec<Done>) {
        for done in waiting {
            let _ = self.context.invoke(done);
        }
    }

    fn wish(&self) -> Wish {
        match self.wish.load(Ordering::SeqCst) {
            0 => Wish::Run,
            1 => Wish::Pause,
            _ => Wish::Stop,
        }
    }

    fn set_wish(&self, wish: Wish) {
        self.wish.store(wish as u8, Ordering::SeqCst);
    }

    fn wait_while(&self, holds: impl FnMut(&mut Parking) -> bool) -> MutexGuard<'_, Parking> {
        self.changed
            .wait_while(lock(&self.parking), holds)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// On a vcpu's thread: waits while a pause is wanted; what is wanted then.
    fn park(&self, member: &Member) -> Wish {
        let mut parking = lock(&self.parking);
        parking.running -= 1;
        member.parked.store(true, Ordering::Release);
        let waiting = parking.take_waiting();
        drop(parking);
        self.changed.notify_all();
        self.tell(waiting);
        let mut gone_on = self.wait_while(|_| self.wish() == Wish::Pause);
        gone_on.running += 1;
        member.parked.store(false, Ordering::Release);
        drop(gone_on);
        self.wish()
    }

    /// On a vcpu's thread, at its end.
    fn leave(&self, member: &Member) {
        let mut parking = lock(&self.parking);
        parking.running -= 1;
        member.thread_id.store(-1, Ordering::Release);
        let waiting = parking.take_waiting();
        drop(parking);
        self.changed.notify_all();
        self.tell(waiting);
    }
}

impl Parking {
    /// Those whose wait is over.
    fn take_waiting(&mut self) -> Vec<Done> {
        match self.running {
            0 => std::mem::take(&mut self.waiting),
            _ => Vec::new(),
        }
    }
}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew")
            .field("wish", &self.wish())
            .finish_non_exhaustive()
    }
}

/// What these mutexes hold is consistent even if a holder panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The end of a vcpu that cannot go on.
fn broken(message: String) -> End {
    End::Failed(Error::new(ErrorKind::Unsupported, message))
}
