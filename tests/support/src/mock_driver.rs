//! A guest's side of a split virtqueue over a memfd: what a driver does, and what it should not.
//!
//! Used by unit tests of the queue and by black-box tests of devices. Knows nothing of the code under test.
#![allow(unsafe_code)] // memory shared with the device

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering, fence};

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// Where the guest's memory begins, for the guest.
pub const RAM_START: u64 = 0x10_0000;

/// A guest's memory: one memfd.
#[derive(Debug)]
pub struct Ram {
    fd: OwnedFd,
    base: *mut u8,
    size: usize,
    next: u64,
}

// SAFETY: plain shared memory.
unsafe impl Send for Ram {}
// SAFETY: tests synchronise through the rings.
unsafe impl Sync for Ram {}

impl Ram {
    pub fn new(size: usize) -> Ram {
        // SAFETY: creates an fd of our own.
        let fd = unsafe { libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC) };
        // SAFETY: just created.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: our own file.
        let grown = unsafe { libc::ftruncate(fd.as_raw_fd(), size.try_into().unwrap()) };
        assert_eq!(grown, 0);
        // SAFETY: a new mapping replaces nothing.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        assert_ne!(base, libc::MAP_FAILED);
        Ram {
            fd,
            base: base.cast(),
            size,
            next: RAM_START,
        }
    }

    pub fn fd(&self) -> OwnedFd {
        self.fd.try_clone().unwrap()
    }

    pub fn size(&self) -> u64 {
        self.size as u64
    }

    /// Takes the end of the file away, as a hostile front end may.
    pub fn truncate(&self, size: i64) {
        // SAFETY: our own file; the test does not touch what is gone.
        assert_eq!(unsafe { libc::ftruncate(self.fd.as_raw_fd(), size) }, 0);
    }

    /// Reserves `len` bytes; returns their guest address.
    pub fn alloc(&mut self, len: u64, align: u64) -> u64 {
        let start = self.next.next_multiple_of(align);
        self.next = start + len;
        assert!(
            self.next <= RAM_START + self.size as u64,
            "guest memory is full"
        );
        start
    }

    fn at(&self, address: u64, len: usize) -> *mut u8 {
        let offset = usize::try_from(address - RAM_START).unwrap();
        assert!(offset + len <= self.size);
        self.base.wrapping_add(offset)
    }

    pub fn write(&self, address: u64, bytes: &[u8]) {
        // SAFETY: in bounds; the device does not look at the range meanwhile.
        unsafe {
            self.at(address, bytes.len())
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
    }

    pub fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        // SAFETY: in bounds; the device has finished with the range.
        unsafe {
            self.at(address, len)
                .copy_to_nonoverlapping(bytes.as_mut_ptr(), len);
        }
        bytes
    }

    fn word(&self, address: u64) -> &AtomicU16 {
        // SAFETY: in bounds, and rings are aligned.
        unsafe { AtomicU16::from_ptr(self.at(address, 2).cast()) }
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: our own mapping.
        unsafe { libc::munmap(self.base.cast(), self.size) };
    }
}

/// A piece of a request.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    pub address: u64,
    pub len: u32,
    pub writable: bool,
}

/// A driver's view of one queue.
#[derive(Debug)]
pub struct Ring {
    pub size: u16,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    pub event_idx: bool,
    pub avail_index: u16,
    pub used_seen: u16,
    /// The available index at the last kick decision.
    kicked: u16,
    free: Vec<u16>,
    chains: Vec<Vec<u16>>,
    /// One indirect table for each head.
    tables: Option<u64>,
}

/// The entries of an indirect table.
const TABLE_LEN: u64 = 64;

impl Ring {
    pub fn new(ram: &mut Ram, size: u16, event_idx: bool, indirect: bool) -> Ring {
        let entries = u64::from(size);
        Ring {
            size,
            descriptors: ram.alloc(16 * entries, 16),
            available: ram.alloc(6 + 2 * entries, 2),
            used: ram.alloc(6 + 8 * entries, 4),
            event_idx,
            avail_index: 0,
            used_seen: 0,
            kicked: 0,
            free: (0..size).rev().collect(),
            chains: vec![Vec::new(); usize::from(size)],
            tables: indirect.then(|| ram.alloc(entries * TABLE_LEN * 16, 16)),
        }
    }

    pub fn set_descriptor(&self, ram: &Ram, index: u16, buffer: Buffer, flags: u16, next: u16) {
        write_descriptor(
            ram,
            self.descriptors + 16 * u64::from(index),
            buffer,
            flags,
            next,
        );
    }

    /// Puts a chain into the ring; `None` if descriptors are short. Not visible before `publish`.
    pub fn add(&mut self, ram: &Ram, buffers: &[Buffer]) -> Option<u16> {
        let head = match self.tables {
            Some(tables) => self.add_indirect(ram, tables, buffers)?,
            None => self.add_direct(ram, buffers)?,
        };
        self.offer(ram, head);
        Some(head)
    }

    fn add_direct(&mut self, ram: &Ram, buffers: &[Buffer]) -> Option<u16> {
        if self.free.len() < buffers.len() {
            return None;
        }
        let chain = self.free.split_off(self.free.len() - buffers.len());
        for (at, &buffer) in buffers.iter().enumerate() {
            let next = chain.get(at + 1).copied();
            let flags = if next.is_some() { NEXT } else { 0 };
            self.set_descriptor(ram, chain[at], buffer, flags, next.unwrap_or(0));
        }
        let head = chain[0];
        self.chains[usize::from(head)] = chain;
        Some(head)
    }

    fn add_indirect(&mut self, ram: &Ram, tables: u64, buffers: &[Buffer]) -> Option<u16> {
        let head = self.free.pop()?;
        let table = tables + u64::from(head) * TABLE_LEN * 16;
        let len = u16::try_from(buffers.len()).unwrap();
        for (at, &buffer) in (0..).zip(buffers) {
            let flags = if at + 1 < len { NEXT } else { 0 };
            write_descriptor(ram, table + 16 * u64::from(at), buffer, flags, at + 1);
        }
        let whole = Buffer {
            address: table,
            len: 16 * u32::from(len),
            writable: false,
        };
        self.set_descriptor(ram, head, whole, INDIRECT, 0);
        self.chains[usize::from(head)] = vec![head];
        Some(head)
    }

    /// Puts any head into the available ring.
    pub fn offer(&mut self, ram: &Ram, head: u16) {
        let slot = u64::from(self.avail_index % self.size);
        ram.word(self.available + 4 + 2 * slot)
            .store(head, Ordering::Relaxed);
        self.avail_index = self.avail_index.wrapping_add(1);
    }

    /// Shows the device all chains; whether it wants a kick.
    pub fn publish(&mut self, ram: &Ram) -> bool {
        ram.word(self.available + 2)
            .store(self.avail_index, Ordering::Release);
        fence(Ordering::SeqCst);
        let old = std::mem::replace(&mut self.kicked, self.avail_index);
        if self.event_idx {
            let event = self.avail_event(ram);
            let new = self.avail_index;
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            ram.word(self.used).load(Ordering::Relaxed) & 1 == 0
        }
    }

    pub fn avail_event(&self, ram: &Ram) -> u16 {
        ram.word(self.used + 4 + 8 * u64::from(self.size))
            .load(Ordering::Relaxed)
    }

    pub fn used_index(&self, ram: &Ram) -> u16 {
        ram.word(self.used + 2).load(Ordering::Acquire)
    }

    /// Asks for no interrupts (without EVENT_IDX).
    pub fn set_no_interrupt(&self, ram: &Ram, unwanted: bool) {
        ram.word(self.available)
            .store(u16::from(unwanted), Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Asks for an interrupt after this used index (EVENT_IDX).
    pub fn set_used_event(&self, ram: &Ram, index: u16) {
        ram.word(self.available + 4 + 2 * u64::from(self.size))
            .store(index, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The next finished chain: its head, and how much the device says it wrote.
    pub fn take_used(&mut self, ram: &Ram) -> Option<(u16, u32)> {
        if self.used_index(ram) == self.used_seen {
            return None;
        }
        let slot = u64::from(self.used_seen % self.size);
        let bytes = ram.read(self.used + 4 + 8 * slot, 8);
        self.used_seen = self.used_seen.wrapping_add(1);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let head = u16::try_from(word(0)).unwrap();
        let chain = std::mem::take(&mut self.chains[usize::from(head)]);
        self.free.extend(chain);
        Some((head, word(4)))
    }
}

fn write_descriptor(ram: &Ram, at: u64, buffer: Buffer, flags: u16, next: u16) {
    let write = if buffer.writable { WRITE } else { 0 };
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&buffer.address.to_le_bytes());
    bytes[8..12].copy_from_slice(&buffer.len.to_le_bytes());
    bytes[12..14].copy_from_slice(&(flags | write).to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    ram.write(at, &bytes);
}
