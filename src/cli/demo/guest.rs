//! The embedded guest: a machine that needs no kernel, driving virtio disks from real mode.
//!
//! The guest itself is `guest/disks.s`. It is assembled with this file and copied into the machine's memory. This file is the
//! host's side: what the guest is to do, and what it reports.
//!
//! The tests' support crate includes this file too.
//!
//! # Invariants
//! 1. The offsets in `layout` are those of `disks.s`.
#![allow(dead_code, unreachable_pub)] // the tests use what the demo does not
#![deny(unsafe_code)] // code.rs has the guest's bytes

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use qcontext::kvm::bus::BusDevice;
use qcontext::kvm::ram::{self, Ram};
use qcontext::kvm::vcpu::{PrepareVcpu, RealMode};
use qcontext::kvm::{MachineBuilder, MachineConfig, MachineControls, MachineEnd, MmioSlots, mmio};
use qcontext::{Error, ErrorKind, QContext, Result};

#[path = "guest/code.rs"] // said, because the file is included from two places
mod code;

/// The unit of the guest's requests, in bytes.
pub const BLOCK: usize = 4096;

/// The most disks that the guest drives.
pub const DISKS_MAX: usize = 2;

/// Where things are in the guest's memory; see the head of `disks.s`.
pub(super) mod layout {
    pub(in super::super) const RAM_END: u64 = 0x8_0000;
    pub(super) const MACHINE: u64 = 0x500;
    pub(super) const MACHINE_CPUS: u64 = MACHINE + 2;
    pub(super) const MACHINE_BEGIN: u64 = MACHINE + 8;
    pub(super) const MACHINE_END: u64 = MACHINE + 16;
    pub(super) const CODE: u64 = 0x1000;
    pub(super) const CODE_SEGMENT: u16 = 0x100;
    pub(super) const STACK: u16 = 0xe800;
    pub(super) const STACK_SIZE: u16 = 0x400;
    pub(super) const REGISTERS: u64 = 0xd_0000;
    pub(super) const PORT_BEGIN: u16 = 0x500;
    pub(super) const CONTROL: u64 = 0x700;

    /// Where the segment of a disk begins.
    pub(in super::super) fn disk(number: usize) -> u64 {
        0x1_0000 * (1 + number as u64)
    }
}

/// What the guest does with a disk: it writes a pattern to all of its first blocks, flushes, reads and compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// How many blocks, at least 1.
    pub blocks: u16,
    /// How many requests at a time, 1 to 8.
    pub depth: u16,
    /// How often it writes the doorbell for each batch, at least 1.
    pub kicks: u16,
    /// After how many batches it resets the disk with requests in flight, and repeats them; 0 for never.
    pub reset_every: u16,
    /// The pattern's seed, different for each disk.
    pub seed: u32,
    /// How the guest behaves: a sum of [`NO_ACK`] and the others.
    pub behaviour: u16,
}

/// The guest never acknowledges an interrupt to the disk.
pub const NO_ACK: u16 = 1;
/// The guest never tells the interrupt controller that an interrupt is over. Only together with [`POLL`].
pub const NO_EOI: u16 = 2;
/// The guest polls instead of sleeping until it is interrupted.
pub const POLL: u16 = 4;
/// The guest writes the doorbell of its first batch before DRIVER_OK, and not again.
pub const EARLY_KICK: u16 = 8;
/// Resets are of the queue, not of the device.
pub const QUEUE_RESETS: u16 = 16;

impl Default for Job {
    fn default() -> Self {
        Job {
            blocks: 64,
            depth: 4,
            kicks: 1,
            reset_every: 0,
            seed: 1,
            behaviour: 0,
        }
    }
}

/// What the guest did with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What the guest found wrong; `None` if every byte was right.
    pub fault: Option<Fault>,
    /// Finished requests.
    pub requests: u32,
    /// Interrupts that the guest took.
    pub interrupts: u32,
    /// Resets by the guest.
    pub resets: u32,
    /// Times from the guest's doorbell to the interrupt that ended a batch.
    pub latency: Latency,
}

/// What the guest found wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The guest did not finish with this disk.
    Unfinished,
    /// There is no virtio disk where it should be.
    NoDevice,
    /// The device did not accept the guest's features.
    Features,
    /// A request was not answered with success.
    Status,
    /// What was read is not what was written, first in this block.
    Data(u16),
    /// The device stopped and asks to be reset.
    NeedsReset,
}

/// Waiting times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// The shortest.
    pub min: Duration,
    /// The mean.
    pub mean: Duration,
    /// The longest.
    pub max: Duration,
    /// How many there were.
    pub count: u32,
}

/// The guest's reports while it runs, and what it left in memory when it has ended.
#[derive(Clone, Debug)]
pub struct Reports(Arc<Ports>);

#[derive(Debug)]
struct Ports {
    controls: MachineControls,
    seen: Mutex<Seen>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    begin: Option<Instant>,
    end: Option<Instant>,
}

/// A machine for the guest. Its end is reported on `context`.
pub fn config(cpus: u32, context: &QContext) -> MachineConfig {
    MachineConfig {
        ram: ram::layout(layout::RAM_END),
        cpus,
        pit: false,
        virtio: slots(),
        context: context.clone(),
    }
}

/// Where the guest expects its disks.
pub fn slots() -> MmioSlots {
    MmioSlots {
        start: layout::REGISTERS,
        stride: mmio::LENGTH,
        lines: vec![5, 10],
    }
}

/// Puts the guest and its jobs, one for each disk that was added, into the machine.
///
/// # Errors
/// `InvalidArgument` if there are more jobs than the guest drives disks or none, or one that it cannot do.
pub fn load(machine: &mut MachineBuilder, jobs: &[Job]) -> Result<Reports> {
    check(jobs)?;
    let cpus = machine.config().cpus;
    let ram = machine.ram();
    put(ram, layout::CODE, code::disks());
    let count = u16::try_from(jobs.len()).unwrap_or(0);
    put(ram, layout::MACHINE, &count.to_le_bytes());
    put(ram, layout::MACHINE_CPUS, &cpus.to_le_bytes()[..2]);
    for (number, job) in jobs.iter().enumerate() {
        put(
            ram,
            layout::disk(number) + layout::CONTROL,
            &job.bytes(number),
        );
    }
    let ports = Arc::new(Ports {
        controls: machine.controls(),
        seen: Mutex::default(),
    });
    let device = Arc::<Ports>::clone(&ports);
    let range = layout::PORT_BEGIN..layout::PORT_BEGIN + 2;
    machine.add_pio(range, "embedded guest", device)?;
    Ok(Reports(ports))
}

/// Refuses jobs that the guest cannot do.
pub fn check(jobs: &[Job]) -> Result<()> {
    let fits = |job: &Job| job.blocks > 0 && (1..=8).contains(&job.depth) && job.kicks > 0;
    if (1..=DISKS_MAX).contains(&jobs.len()) && jobs.iter().all(fits) {
        return Ok(());
    }
    let message = "the embedded guest drives one or two disks, with 1 to 8 requests at a time";
    Err(Error::new(ErrorKind::InvalidArgument, message))
}

/// How the guest's vcpus begin.
pub fn prepare() -> PrepareVcpu {
    Arc::new(|cpu, vcpu| {
        let number = u16::try_from(cpu).unwrap_or(u16::MAX);
        let begin = RealMode {
            segment: layout::CODE_SEGMENT,
            ip: 0,
            sp: layout::STACK.wrapping_sub(number.wrapping_mul(layout::STACK_SIZE)),
            ax: number,
        };
        begin.prepare(vcpu)
    })
}

/// The bytes of a block as the guest writes it.
pub fn pattern(seed: u32, block: u16) -> Vec<u8> {
    let first = seed.wrapping_add(u32::from(block).wrapping_mul(0x85eb_ca6b));
    let words = (0..1024_u32).map(|word| first.wrapping_add(word.wrapping_mul(0x9e37_79b1)));
    words.flat_map(u32::to_le_bytes).collect()
}

impl Job {
    /// The host's part of the control block.
    fn bytes(&self, number: usize) -> Vec<u8> {
        let registers = layout::REGISTERS + mmio::LENGTH * number as u64;
        let segment = u16::try_from(registers >> 4).unwrap_or(0);
        let base = u32::try_from(layout::disk(number)).unwrap_or(0);
        let mut bytes = Vec::new();
        bytes.extend(segment.to_le_bytes());
        bytes.extend(self.behaviour.to_le_bytes());
        bytes.extend(base.to_le_bytes());
        for word in [self.blocks, self.depth, self.kicks, self.reset_every] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(self.seed.to_le_bytes());
        bytes
    }
}

impl Reports {
    /// Whether the guest has begun.
    pub fn has_begun(&self) -> bool {
        self.0.seen().begin.is_some()
    }

    /// How long the guest took.
    pub fn duration(&self) -> Duration {
        let seen = self.0.seen();
        match (seen.begin, seen.end) {
            (Some(begin), Some(end)) => end.duration_since(begin),
            _ => Duration::ZERO,
        }
    }

    /// What the guest did with each of the first `disks` disks. Call it when the machine has ended.
    pub fn outcomes(&self, ram: &Ram, disks: usize) -> Vec<Outcome> {
        let ticks = quad(ram, layout::MACHINE_END).wrapping_sub(quad(ram, layout::MACHINE_BEGIN));
        let clock = Ticks {
            ticks,
            duration: self.duration(),
        };
        (0..disks)
            .map(|number| outcome(ram, number, &clock))
            .collect()
    }
}

/// Converts the guest's time stamps into the host's time.
struct Ticks {
    ticks: u64,
    duration: Duration,
}

impl Ticks {
    fn duration(&self, ticks: u64) -> Duration {
        if self.ticks == 0 {
            return Duration::ZERO;
        }
        let nanos = self.duration.as_nanos() * u128::from(ticks) / u128::from(self.ticks);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// Reads a disk's control block.
fn outcome(ram: &Ram, number: usize, clock: &Ticks) -> Outcome {
    let at = |offset: u64| layout::disk(number) + offset;
    let word = |offset| u16::try_from(quad(ram, at(offset)) & 0xffff).unwrap_or(0);
    let long = |offset| u32::try_from(quad(ram, at(offset)) & 0xffff_ffff).unwrap_or(0);
    let batches = long(0x724);
    let fault = match (word(0x714), word(0x716)) {
        (0, 4) => None,
        (1, _) => Some(Fault::NoDevice),
        (2, _) => Some(Fault::Features),
        (3, _) => Some(Fault::Status),
        (4, _) => Some(Fault::Data(word(0x74a))),
        (5, _) => Some(Fault::NeedsReset),
        _ => Some(Fault::Unfinished),
    };
    let ticks = match batches {
        0 => [0; 3],
        count => [
            u64::from(long(0x730)),
            quad(ram, at(0x738)) / u64::from(count),
            u64::from(long(0x734)),
        ],
    };
    let [min, mean, max] = ticks.map(|ticks| clock.duration(ticks));
    Outcome {
        fault,
        requests: long(0x728),
        interrupts: long(0x720),
        resets: long(0x72c),
        latency: Latency {
            min,
            mean,
            max,
            count: batches,
        },
    }
}

impl Ports {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BusDevice for Ports {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, _data: &[u8]) {
        let now = Instant::now();
        match offset {
            0 => self.seen().begin = Some(now),
            _ => {
                self.seen().end = Some(now);
                self.controls.end(MachineEnd::PowerOff);
            }
        }
    }
}

/// All places are in the guest's memory, so this cannot fail.
fn put(ram: &Ram, address: u64, bytes: &[u8]) {
    ram.memory().write(address, bytes);
}

fn quad(ram: &Ram, address: u64) -> u64 {
    let mut bytes = [0; 8];
    ram.memory().read(address, &mut bytes);
    u64::from_le_bytes(bytes)
}
