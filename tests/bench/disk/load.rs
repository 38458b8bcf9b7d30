//! The load: one queue of a vhost-user disk kept at a depth for a while, 4 KiB at random places.
//!
//! The client is the `virtio-driver` crate. It negotiates EVENT_IDX, as a Linux guest does. Its
//! queue lacks a store-load barrier between publishing a request and looking whether a kick is
//! wanted, so one stands here.
#![allow(unsafe_code)] // one shared mapping, for the data

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use memmap2::MmapMut;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use virtio_driver::{
    EventFd, QueueNotifier, VhostUser, VirtioBlkQueue, VirtioBlkTransport, VirtioFeatureFlags,
};

use super::Result;
use super::case::{BLOCK, Case, DISK_SIZE, Operation, random};
use super::servers::Server;
use support::cpu;

/// Three descriptors for each of 128 requests.
const QUEUE_SIZE: u16 = 512;
const WARM_UP: Duration = Duration::from_millis(100);
/// `VIRTIO_BLK_F_DISCARD`
const DISCARD: u64 = 1 << 13;
/// What is written.
const DATA: u8 = 0x5a;
const SLICE: Duration = Duration::from_millis(400);

/// What one slice has shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    pub(crate) per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// Processor time of the server for each request, in microseconds.
    pub(crate) server_us: f64,
    /// What others used of the machine, in processors.
    pub(crate) others: f64,
}

/// Connects, loads the server for a slice and tells what was seen.
pub(crate) fn run(server: &Server, case: &Case) -> Result<Slice> {
    let features = VirtioFeatureFlags::VERSION_1 | VirtioFeatureFlags::RING_EVENT_IDX;
    let features = features.bits() | DISCARD;
    let mut transport: Box<VirtioBlkTransport> =
        Box::new(VhostUser::new(&server.socket, features)?);
    let mut queues = VirtioBlkQueue::setup_queues(transport.as_mut(), 1, QUEUE_SIZE)?;

    let file = memfd_create("bench", MemfdFlags::CLOEXEC)?;
    let size = case.depth * BLOCK;
    rustix::fs::ftruncate(&file, size as u64)?;
    // SAFETY: the memory is shared with the server by design; only its speed matters to us, no
    // reference into it is held across a request.
    let mut memory = unsafe { MmapMut::map_mut(&file) }?;
    memory.fill(DATA);
    transport.map_mem_region(memory.as_ptr().addr(), size, file.as_raw_fd(), 0)?;

    let mut client = Client {
        queue: queues.remove(0),
        kick: transport.get_submission_notifier(0),
        call: transport.get_completion_fd(0),
        memory: &mut memory,
        started: vec![Instant::now(); case.depth],
        numbers: vec![0; case.depth],
        state: 0x9e37_79b9_7f4a_7c15,
        case: *case,
    };
    client.queue.set_used_notif_enabled(false);
    client.slice(server)
}

struct Client<'a> {
    queue: VirtioBlkQueue<'a, usize>,
    kick: Box<dyn QueueNotifier>,
    call: Arc<EventFd>,
    memory: &'a mut [u8],
    /// When the request of each place in the memory was submitted.
    started: Vec<Instant>,
    /// The block that it reads or writes.
    numbers: Vec<u64>,
    state: u64,
    case: Case,
}

impl Client<'_> {
    fn slice(&mut self, server: &Server) -> Result<Slice> {
        self.submit_all()?;
        self.load_until(Instant::now() + WARM_UP)?;

        let (begin, server_begin) = (Instant::now(), cpu::of_process(server.pid())?);
        let (own_begin, machine_begin) = (cpu::of_process(std::process::id())?, cpu::of_machine()?);
        let mut latencies = self.load_until(begin + SLICE)?;
        let elapsed = begin.elapsed().as_secs_f64();
        let server_ns = cpu::of_process(server.pid())? - server_begin;
        let own_ns = cpu::of_process(std::process::id())? - own_begin;
        let machine_ns = cpu::of_machine()? - machine_begin;

        self.drain()?;
        self.check(server.image.as_deref())?;
        latencies.sort_unstable();
        let count = latencies.len();
        if count == 0 {
            return Err("no request was completed".into());
        }
        let others = machine_ns.saturating_sub(server_ns + own_ns) as f64;
        Ok(Slice {
            per_second: count as f64 / elapsed,
            p50: latencies[count / 2],
            p99: latencies[count * 99 / 100],
            server_us: server_ns as f64 / 1e3 / count as f64,
            others: others / 1e9 / elapsed,
        })
    }

    fn submit_all(&mut self) -> Result<()> {
        for slot in 0..self.case.depth {
            self.submit(slot, Instant::now())?;
        }
        self.notify()
    }

    fn submit(&mut self, slot: usize, now: Instant) -> Result<()> {
        let number = random(&mut self.state) % (DISK_SIZE / BLOCK as u64);
        let offset = number * BLOCK as u64;
        let buffer = &mut self.memory[slot * BLOCK..][..BLOCK];
        self.numbers[slot] = number;
        self.started[slot] = now;
        match self.case.operation {
            Operation::Read => self.queue.read(offset, buffer, slot)?,
            Operation::Write => self.queue.write(offset, buffer, slot)?,
            Operation::Discard => self.queue.discard(offset, BLOCK as u64, slot)?,
        }
        Ok(())
    }

    fn notify(&mut self) -> Result<()> {
        // Pairs with the server's barrier between asking for kicks and looking for requests.
        fence(Ordering::SeqCst);
        if self.queue.avail_notif_needed() {
            self.kick.notify()?;
        }
        Ok(())
    }

    /// Keeps the depth until the time has come; the latencies of what was completed.
    fn load_until(&mut self, end: Instant) -> Result<Vec<Duration>> {
        let mut latencies = Vec::with_capacity(1 << 20);
        let mut done = Vec::with_capacity(self.case.depth);
        loop {
            self.completed(&mut done)?;
            let now = Instant::now();
            for &slot in &done {
                latencies.push(now - self.started[slot]);
                self.submit(slot, now)?;
            }
            if now >= end {
                self.notify()?;
                return Ok(latencies);
            }
            if done.is_empty() {
                self.wait()?;
            } else {
                self.notify()?;
            }
        }
    }

    /// Collects the places whose requests have come back; an error if one of them failed.
    fn completed(&mut self, done: &mut Vec<usize>) -> Result<()> {
        done.clear();
        for completion in self.queue.completions() {
            if completion.ret != 0 {
                return Err(format!("a request failed: {}", completion.ret).into());
            }
            done.push(completion.context);
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        if self.case.polling {
            std::hint::spin_loop();
            return Ok(());
        }
        self.queue.set_used_notif_enabled(true);
        if !self.queue.completions().has_next() {
            let mut fds = [PollFd::new(&self.call, PollFlags::IN)];
            if poll(&mut fds, 5000)? == 0 {
                return Err("no completion in five seconds".into());
            }
            // The server makes the shared descriptor non-blocking.
            self.call.read()?;
        }
        self.queue.set_used_notif_enabled(false);
        Ok(())
    }

    /// Checks that the server does what it is measured at, all of it: reads once more into memory
    /// that is full of something else, or looks whether the last writes are in the file.
    fn check(&mut self, image: Option<&Path>) -> Result<()> {
        if self.case.target.is_used_up() {
            return self.check_changes();
        }
        if self.case.operation == Operation::Read {
            self.memory.fill(0xa5);
            self.submit_all()?;
            self.drain()?;
        }
        let file = image.map(File::open).transpose()?;
        for (slot, &number) in self.numbers.iter().enumerate() {
            let mut block = [0; BLOCK];
            match &file {
                Some(file) => file.read_exact_at(&mut block, number * BLOCK as u64)?,
                None if self.case.operation == Operation::Write => continue,
                None => {}
            }
            if block != self.memory[slot * BLOCK..][..BLOCK] {
                return Err(format!("block {number} is not what it should be").into());
            }
        }
        Ok(())
    }

    /// Reads the blocks that were written or discarded last.
    fn check_changes(&mut self) -> Result<()> {
        let expected = match self.case.operation {
            Operation::Discard => 0,
            _ => DATA,
        };
        self.memory.fill(0xa5);
        for slot in 0..self.case.depth {
            let offset = self.numbers[slot] * BLOCK as u64;
            let buffer = &mut self.memory[slot * BLOCK..][..BLOCK];
            self.queue.read(offset, buffer, slot)?;
        }
        self.notify()?;
        self.drain()?;
        match self.memory.iter().all(|&byte| byte == expected) {
            true => Ok(()),
            false => Err("a block is not what it should be".into()),
        }
    }

    /// Waits for what is under way: the memory goes with us.
    fn drain(&mut self) -> Result<()> {
        let mut left = self.case.depth;
        let mut done = Vec::new();
        while left > 0 {
            self.completed(&mut done)?;
            left -= done.len();
            if done.is_empty() {
                self.wait()?;
            }
        }
        Ok(())
    }
}
