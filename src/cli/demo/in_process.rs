//! A machine without a processor, and drivers that do the embedded guest's job on it.
//!
//! The demo uses it where KVM lets no guest run, and the tests use it for guests that write garbage. Disks are behind the same
//! virtio-mmio registers as on a real machine. For each disk a thread of this process is the driver: it writes the registers,
//! fills the rings, and sleeps until the disk's context interrupts it.
//!
//! The tests' support crate includes this file too.
//!
//! # Threads
//! [`InProcessMachine::run`] waits for the disks, so it must not be called on a thread that runs one of their contexts.
#![allow(dead_code, unreachable_pub)] // the tests use what the demo does not
#![forbid(unsafe_code)]

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread;

use qcontext::kvm::bus::Bus;
use qcontext::kvm::mmio::Mmio;
use qcontext::kvm::ram::{self, Ram};
use qcontext::kvm::{Board, MmioDevice, MmioLocation, MmioSlots};
use qcontext::virtio::Signal;
use qcontext::{Error, ErrorKind, Result};

use super::guest::{self, Fault, Job, Latency, Outcome, layout};

#[path = "in_process/driver.rs"] // said, because the file is included from two places
mod driver;
#[path = "in_process/interrupt.rs"]
mod interrupt;
#[cfg(test)]
#[path = "in_process/tests.rs"]
mod tests;

use driver::{DiskAccess, DiskDriver};
use interrupt::InProcessInterrupt;

/// Memory, and a bus with virtio disks.
pub struct InProcessMachine {
    ram: Ram,
    bus: Bus,
    slots: MmioSlots,
    disks: Vec<PluggedDisk>,
    halted: AtomicBool,
}

/// Where a disk is, and how it interrupts its driver.
#[derive(Clone, Debug)]
struct PluggedDisk {
    registers: Range<u64>,
    interrupt: Arc<InProcessInterrupt>,
}

impl InProcessMachine {
    /// A machine with the memory of the embedded guest's and the same places for disks, but without disks.
    ///
    /// # Errors
    /// `Os` if there is no memory.
    pub fn new() -> Result<InProcessMachine> {
        Ok(InProcessMachine {
            ram: Ram::new(&ram::layout(layout::RAM_END))?,
            bus: Bus::default(),
            slots: guest::slots(),
            disks: Vec::new(),
            halted: AtomicBool::new(false),
        })
    }

    /// The memory that the disks see.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// The disks' registers.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Drives the disks that were added, each on a thread of its own, and returns when all are done.
    ///
    /// # Errors
    /// `Closed` after [`InProcessMachine::halt`]; `InvalidArgument` if there are not as many disks as jobs, or the guest could
    /// not do a job; `Os` if threads have run out.
    pub fn run(&self, jobs: &[Job]) -> Result<Vec<Outcome>> {
        guest::check(jobs)?;
        if jobs.len() != self.disks.len() {
            let message = format!("{} jobs for {} disks", jobs.len(), self.disks.len());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        thread::scope(|scope| {
            let mut drivers = Vec::new();
            for (number, (job, disk)) in jobs.iter().zip(&self.disks).enumerate() {
                let spawned = thread::Builder::new()
                    .name(format!("driver{number}"))
                    .spawn_scoped(scope, move || self.drive(number, *job, disk));
                drivers.push(spawned.map_err(|error| Error::os("cannot start a driver", error))?);
            }
            let outcome = |driver: thread::ScopedJoinHandle<'_, Outcome>| {
                driver.join().unwrap_or_else(|_| unfinished())
            };
            let outcomes = drivers.into_iter().map(outcome).collect();
            match self.halted.load(Ordering::SeqCst) {
                true => Err(Error::new(
                    ErrorKind::Closed,
                    "asked to end before the drivers did",
                )),
                false => Ok(outcomes),
            }
        })
    }

    /// Makes all drivers give up, and those that would begin later too. From any thread.
    pub fn halt(&self) {
        self.halted.store(true, Ordering::SeqCst);
        // A driver registers its thread before it reads the flag. So either this thread finds it, or it sees the flag.
        fence(Ordering::SeqCst);
        for disk in &self.disks {
            disk.interrupt.unpark();
        }
    }

    fn drive(&self, number: usize, job: Job, disk: &PluggedDisk) -> Outcome {
        disk.interrupt.wake_this_thread();
        // See `halt`.
        fence(Ordering::SeqCst);
        let access = DiskAccess {
            memory: self.ram.memory(),
            bus: &self.bus,
            registers: disk.registers.start,
            interrupt: &disk.interrupt,
            halted: &self.halted,
        };
        let mut driver = DiskDriver::new(access, number, job);
        let fault = driver.work().err();
        Outcome {
            fault,
            requests: driver.requests,
            interrupts: disk.interrupt.count(),
            resets: 0,
            latency: driver.latency(),
        }
    }
}

fn unfinished() -> Outcome {
    Outcome {
        fault: Some(Fault::Unfinished),
        requests: 0,
        interrupts: 0,
        resets: 0,
        latency: Latency::default(),
    }
}

impl Board for InProcessMachine {
    fn add_virtio(&mut self, wanted: MmioDevice) -> Result<(Arc<Mmio>, MmioLocation)> {
        let place = self.slots.place(self.disks.len(), &wanted.id)?;
        let interrupt = Arc::new(InProcessInterrupt::default());
        let line: Arc<dyn Signal> = Arc::<InProcessInterrupt>::clone(&interrupt);
        let id = wanted.id.clone();
        let mmio = Arc::new(wanted.without_kvm(self.ram.memory().clone(), line)?);
        let device = Arc::<Mmio>::clone(&mmio);
        self.bus.add(place.registers.clone(), &id, device)?;
        self.disks.push(PluggedDisk {
            registers: place.registers.clone(),
            interrupt,
        });
        Ok((mmio, place))
    }
}

impl fmt::Debug for InProcessMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcessMachine")
            .field("ram", &self.ram)
            .field("bus", &self.bus)
            .finish_non_exhaustive()
    }
}
