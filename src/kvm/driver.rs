//! A machine without a processor, and a driver that does the embedded guest's job on it.
//!
//! Used where KVM is not to be had, and by tests of the transport. Devices are behind the same virtio-mmio registers as on
//! a real machine; a thread of this process for each disk plays the guest: it writes the registers, fills the rings, and
//! sleeps until the device's context interrupts it.
//!
//! # Threads
//! [`Bench::run`] is to be called on a thread that drives none of the devices' contexts.
#![forbid(unsafe_code)]

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::bus::Bus;
use super::eventfd;
use super::guest::{self, BLOCK, Fault, Job, Latency, Outcome, layout};
use super::machine::virtio::{Announcement, Board, MmioDevice, Slots};
use super::mmio::{Mmio, Parts};
use super::ram::Ram;
use crate::virtio::notify::Signal;
use crate::{Error, ErrorKind, Result};

mod disk;
#[cfg(test)]
mod tests;

use disk::Driver;

/// How long a driver waits for a device before it gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Memory and a bus with virtio devices, and nobody else.
pub struct Bench {
    ram: Ram,
    bus: Bus,
    slots: Slots,
    seats: Vec<Seat>,
    halted: AtomicBool,
}

/// Where a device is, and how it interrupts.
#[derive(Clone, Debug)]
struct Seat {
    registers: Range<u64>,
    bell: Arc<Bell>,
}

/// An interrupt: it wakes the thread that waits for it.
#[derive(Debug, Default)]
struct Bell {
    rung: AtomicBool,
    count: AtomicU32,
    waiter: OnceLock<Thread>,
}

impl Signal for Bell {
    fn signal(&self) {
        self.rung.store(true, Ordering::Release);
        if let Some(waiter) = self.waiter.get() {
            waiter.unpark();
        }
    }
}

impl Bell {
    /// Waits for the next interrupt; `false` if none came for too long, or `halted` is set.
    fn wait(&self, halted: &AtomicBool) -> bool {
        let since = Instant::now();
        while !self.rung.swap(false, Ordering::Acquire) {
            let left = PATIENCE.saturating_sub(since.elapsed());
            if left.is_zero() || halted.load(Ordering::SeqCst) {
                return false;
            }
            thread::park_timeout(left);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        true
    }
}

impl Bench {
    /// A bench with the memory and the places for devices that the embedded guest's machine has.
    ///
    /// # Errors
    /// `Os` if there is no memory.
    pub fn new() -> Result<Bench> {
        Ok(Bench {
            ram: Ram::new(&super::ram::layout(layout::RAM_END))?,
            bus: Bus::default(),
            slots: guest::slots(),
            seats: Vec::new(),
            halted: AtomicBool::new(false),
        })
    }

    /// The memory that the devices see.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// The devices' registers.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Drives the disks that were added, each on a thread of its own, and returns when all are done.
    ///
    /// # Errors
    /// `Closed` after [`Bench::halt`]; `InvalidArgument` if there are not as many disks as jobs, or a job is not one for the guest; `Os` if there are no
    /// threads left.
    pub fn run(&self, jobs: &[Job]) -> Result<Vec<Outcome>> {
        guest::check(jobs)?;
        if jobs.len() != self.seats.len() {
            let message = format!("{} jobs for {} disks", jobs.len(), self.seats.len());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        thread::scope(|scope| {
            let mut drivers = Vec::new();
            for (number, (job, seat)) in jobs.iter().zip(&self.seats).enumerate() {
                let spawned = thread::Builder::new()
                    .name(format!("driver{number}"))
                    .spawn_scoped(scope, move || self.drive(number, *job, seat));
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

    /// Makes the drivers give up, for good, wherever they are. From any thread.
    pub fn halt(&self) {
        self.halted.store(true, Ordering::SeqCst);
        // A driver says who it is before it looks, so either we see it or it sees that it is halted.
        fence(Ordering::SeqCst);
        for seat in &self.seats {
            if let Some(waiter) = seat.bell.waiter.get() {
                waiter.unpark();
            }
        }
    }

    fn drive(&self, number: usize, job: Job, seat: &Seat) -> Outcome {
        // The first driver of a disk is the one that it interrupts.
        let _ = seat.bell.waiter.set(thread::current());
        // See `halt`.
        fence(Ordering::SeqCst);
        let mut driver = Driver::new(self, seat, number, job);
        let fault = driver.work().err();
        Outcome {
            fault,
            requests: driver.requests,
            interrupts: seat.bell.count.load(Ordering::Relaxed),
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

impl Board for Bench {
    fn add_virtio(&mut self, wanted: MmioDevice) -> Result<(Arc<Mmio>, Announcement)> {
        let place = self.slots.place(self.seats.len(), &wanted.id)?;
        let bell = Arc::new(Bell::default());
        let line: Arc<dyn Signal> = Arc::<Bell>::clone(&bell);
        let kicks = 0..wanted.device.queue_count();
        let mmio = Arc::new(Mmio::new(Parts {
            queue_size_max: wanted.queue_size_max,
            memory: self.ram.memory().clone(),
            control: wanted.control,
            line,
            kicks: kicks
                .map(|_| eventfd::new("a doorbell"))
                .collect::<Result<_>>()?,
            device: wanted.device,
        }));
        let device = Arc::<Mmio>::clone(&mmio);
        self.bus.add(place.registers.clone(), &wanted.id, device)?;
        self.seats.push(Seat {
            registers: place.registers.clone(),
            bell,
        });
        Ok((mmio, place))
    }
}

impl fmt::Debug for Bench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bench")
            .field("ram", &self.ram)
            .field("bus", &self.bus)
            .finish_non_exhaustive()
    }
}
