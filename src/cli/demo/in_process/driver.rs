//! A driver of one virtio-blk disk behind virtio-mmio registers.
//!
//! Does what the embedded guest (`guest/disks.s`) does, at the same places in memory.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

use qcontext::kvm::bus::Bus;
use qcontext::virtio::GuestMemory;

use super::super::guest::{self, BLOCK, Fault, Job, Latency, layout};
use super::interrupt::{InProcessInterrupt, PATIENCE};

const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = 0x200;
const USED: u64 = 0x300;
const HEADERS: u64 = 0x500;
const STATUSES: u64 = 0x600;
const DATA: u64 = 0x8000;
const QUEUE_SIZE: u16 = 32;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// What a batch does; the numbers are virtio-blk's request types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BatchKind {
    Read = 0,
    Write = 1,
    Flush = 4,
}

/// What a driver uses of its machine and its disk.
#[derive(Clone, Copy)]
pub(super) struct DiskAccess<'a> {
    pub(super) memory: &'a GuestMemory,
    pub(super) bus: &'a Bus,
    /// The address of the disk's registers.
    pub(super) registers: u64,
    pub(super) interrupt: &'a InProcessInterrupt,
    /// Set when the driver is to give up.
    pub(super) halted: &'a AtomicBool,
}

/// A driver and its progress.
pub(super) struct DiskDriver<'a> {
    access: DiskAccess<'a>,
    base: u64,
    job: Job,
    avail: u16,
    pub(super) requests: u32,
    waits: Vec<Duration>,
}

impl<'a> DiskDriver<'a> {
    pub(super) fn new(access: DiskAccess<'a>, number: usize, job: Job) -> DiskDriver<'a> {
        DiskDriver {
            access,
            base: layout::disk(number),
            job,
            avail: 0,
            requests: 0,
            waits: Vec::new(),
        }
    }

    /// Writes, flushes, reads and compares.
    pub(super) fn work(&mut self) -> Result<(), Fault> {
        self.begin()?;
        self.all_blocks(BatchKind::Write)?;
        self.batch(BatchKind::Flush, 0, 1)?;
        self.all_blocks(BatchKind::Read)
    }

    pub(super) fn latency(&self) -> Latency {
        let count = u32::try_from(self.waits.len()).unwrap_or(u32::MAX);
        let sum: Duration = self.waits.iter().sum();
        Latency {
            min: self.waits.iter().min().copied().unwrap_or_default(),
            mean: sum.checked_div(count).unwrap_or_default(),
            max: self.waits.iter().max().copied().unwrap_or_default(),
            count,
        }
    }

    /// From reset to DRIVER_OK (virtio 1.2, section 3.1.1).
    fn begin(&mut self) -> Result<(), Fault> {
        self.write(0x70, 0);
        let since = Instant::now();
        while self.read(0x70) != 0 {
            if since.elapsed() > PATIENCE || self.is_halted() {
                return Err(Fault::Unfinished);
            }
            thread::yield_now();
        }
        let is_disk = self.read(0) == 0x7472_6976 && self.read(4) == 2 && self.read(8) == 2;
        if !is_disk {
            return Err(Fault::NoDevice);
        }
        // ACKNOWLEDGE, DRIVER; FLUSH; VERSION_1; FEATURES_OK.
        for (register, value) in [
            (0x70, 1),
            (0x70, 3),
            (0x24, 0),
            (0x20, 0x200),
            (0x24, 1),
            (0x20, 1),
            (0x70, 0xb),
        ] {
            self.write(register, value);
        }
        if self.read(0x70) & 8 == 0 {
            return Err(Fault::Features);
        }
        self.describe_queue();
        self.write(0x70, 0xf);
        Ok(())
    }

    fn describe_queue(&mut self) {
        self.put(AVAILABLE, &[0; 4]);
        self.put(USED, &[0; 4]);
        self.write(0x30, 0);
        self.write(0x38, u32::from(QUEUE_SIZE));
        for (register, offset) in [(0x80, DESCRIPTORS), (0x90, AVAILABLE), (0xa0, USED)] {
            let address = u32::try_from(self.base + offset).unwrap_or(0);
            self.write(register, address);
            self.write(register + 4, 0);
        }
        self.write(0x44, 1);
    }

    fn all_blocks(&mut self, kind: BatchKind) -> Result<(), Fault> {
        let mut first = 0;
        while first < self.job.blocks {
            let count = self.job.depth.min(self.job.blocks - first);
            self.batch(kind, first, count)?;
            first += count;
        }
        Ok(())
    }

    /// Submits `count` requests from block `first` on, waits for them and checks the results.
    fn batch(&mut self, kind: BatchKind, first: u16, count: u16) -> Result<(), Fault> {
        if self.is_halted() {
            return Err(Fault::Unfinished);
        }
        for slot in 0..count {
            self.put_request(kind, first + slot, slot);
        }
        // The device must see the ring's entries before the index, and the index before the doorbell.
        fence(Ordering::SeqCst);
        self.put(AVAILABLE + 2, &self.avail.to_le_bytes());
        fence(Ordering::SeqCst);
        let submitted = Instant::now();
        for _ in 0..self.job.kicks {
            self.write(0x50, 0);
        }
        self.wait()?;
        self.waits.push(submitted.elapsed());
        for slot in 0..count {
            self.check(kind, first + slot, slot)?;
            self.requests += 1;
        }
        Ok(())
    }

    /// Sleeps until everything submitted is used.
    fn wait(&self) -> Result<(), Fault> {
        loop {
            if !self.access.interrupt.wait(self.access.halted) {
                return Err(Fault::Unfinished);
            }
            let bits = self.read(0x60);
            self.write(0x64, bits);
            if self.read(0x70) & 0x40 != 0 {
                return Err(Fault::NeedsReset);
            }
            if self.word(USED + 2) == self.avail {
                fence(Ordering::SeqCst);
                return Ok(());
            }
        }
    }

    fn put_request(&mut self, kind: BatchKind, block: u16, slot: u16) {
        let number = u64::from(slot);
        let (header, status) = (HEADERS + 16 * number, STATUSES + number);
        let data = DATA + BLOCK as u64 * number;
        let sector = match kind {
            BatchKind::Flush => 0,
            _ => u64::from(block) * 8,
        };
        let [low, high] = [u64::from(kind as u32), sector].map(u64::to_le_bytes);
        self.put(header, &[low, high].concat());
        self.put(status, &[0xff]);
        let head = 3 * slot;
        let after_header = if kind == BatchKind::Flush {
            head + 2
        } else {
            head + 1
        };
        self.put_descriptor(head, header, 16, NEXT, after_header);
        let direction = match kind {
            BatchKind::Read => NEXT | WRITE,
            _ => NEXT,
        };
        self.put_descriptor(head + 1, data, 4096, direction, head + 2);
        self.put_descriptor(head + 2, status, 1, WRITE, 0);
        match kind {
            // So that old data cannot be taken for what was read.
            BatchKind::Read => self.put(data, &[0; BLOCK]),
            BatchKind::Write => self.put(data, &guest::pattern(self.job.seed, block)),
            BatchKind::Flush => {}
        }
        let entry = u64::from(self.avail % QUEUE_SIZE);
        self.put(AVAILABLE + 4 + 2 * entry, &head.to_le_bytes());
        self.avail = self.avail.wrapping_add(1);
    }

    fn put_descriptor(&self, index: u16, offset: u64, length: u32, flags: u16, next: u16) {
        let mut bytes = (self.base + offset).to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.put(DESCRIPTORS + 16 * u64::from(index), &bytes);
    }

    fn check(&self, kind: BatchKind, block: u16, slot: u16) -> Result<(), Fault> {
        let number = u64::from(slot);
        let mut status = [0xff];
        self.get(STATUSES + number, &mut status);
        if status != [0] {
            return Err(Fault::Status);
        }
        if kind != BatchKind::Read {
            return Ok(());
        }
        let mut data = vec![0; BLOCK];
        self.get(DATA + BLOCK as u64 * number, &mut data);
        match data == guest::pattern(self.job.seed, block) {
            true => Ok(()),
            false => Err(Fault::Data(block)),
        }
    }

    fn is_halted(&self) -> bool {
        self.access.halted.load(Ordering::SeqCst)
    }

    /// All places are in memory, so this cannot fail.
    fn put(&self, offset: u64, bytes: &[u8]) {
        self.access.memory.write(self.base + offset, bytes);
    }

    fn get(&self, offset: u64, bytes: &mut [u8]) {
        self.access.memory.read(self.base + offset, bytes);
    }

    fn word(&self, offset: u64) -> u16 {
        let mut bytes = [0; 2];
        self.get(offset, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    fn read(&self, register: u64) -> u32 {
        let mut bytes = [0; 4];
        let address = self.access.registers + register;
        self.access.bus.read(address, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn write(&self, register: u64, value: u32) {
        let address = self.access.registers + register;
        self.access.bus.write(address, &value.to_le_bytes());
    }
}
