//! The guest's side of a disk: a thread that makes some reads at once, kicks, and sleeps until it is called.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use qcontext::virtio::{CallFd, F_VERSION_1, GuestMemory, KickFd, MemoryRegion, QueueSetup};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use support::mock_driver::{Buffer, RAM_START, Ram, Ring};
use support::random::Random;

use super::Result;
use super::case::Load;

/// What a request reads.
const BLOCK: u32 = 512;
/// The memory of a driver.
const MEMORY: usize = 1 << 20;
const QUEUE_SIZE: u16 = 64;
const PATIENCE_MS: i32 = 10_000;

/// Header, data and status of a request.
type Request = [Buffer; 3];

/// A driver of one queue.
#[derive(Debug)]
pub(crate) struct Driver {
    ram: Ram,
    ring: Ring,
    requests: Vec<Request>,
    rest: Duration,
    random: Random,
    kick: OwnedFd,
    call: OwnedFd,
    /// Requests that were answered well, ever.
    pub(crate) answered: u64,
}

impl Driver {
    pub(crate) fn new(load: Load) -> Result<Driver> {
        let mut ram = Ram::new(MEMORY);
        let ring = Ring::new(&mut ram, QUEUE_SIZE, false, false);
        let requests = (0..load.depth).map(|_| request(&mut ram)).collect();
        Ok(Driver {
            ram,
            ring,
            requests,
            rest: load.rest,
            random: Random(1),
            kick: eventfd(0, EventfdFlags::CLOEXEC)?,
            call: eventfd(0, EventfdFlags::CLOEXEC)?,
            answered: 0,
        })
    }

    /// The requests that are made at once.
    pub(crate) fn depth(&self) -> usize {
        self.requests.len()
    }

    /// The device's end of the way back.
    pub(crate) fn call(&self) -> Result<CallFd> {
        Ok(CallFd::new(self.call.try_clone()?)?)
    }

    /// The queue as the device gets to know it, without its call.
    pub(crate) fn setup(&self) -> Result<QueueSetup> {
        let memory = GuestMemory::new().with_region(MemoryRegion {
            guest_addr: RAM_START,
            size: self.ram.size(),
            user_addr: 0,
            fd: self.ram.fd(),
            offset: 0,
        })?;
        Ok(QueueSetup {
            size: self.ring.size,
            descriptors: self.ring.descriptors,
            available: self.ring.available,
            used: self.ring.used,
            next_avail: 0,
            features: F_VERSION_1,
            memory,
            kick: Some(KickFd::new(self.kick.try_clone()?)?),
            call: None,
            err: None,
        })
    }

    /// Makes requests until the time has come and all are answered; what each batch of them took.
    pub(crate) fn load_until(&mut self, end: Instant) -> Result<Vec<Duration>> {
        let mut latencies = Vec::with_capacity(1 << 14);
        loop {
            let begin = Instant::now();
            self.submit()?;
            self.wait()?;
            let now = Instant::now();
            latencies.push(now - begin);
            if now >= end {
                return Ok(latencies);
            }
            self.rest();
        }
    }

    fn rest(&mut self) {
        if !self.rest.is_zero() {
            let most = u64::try_from(self.rest.as_nanos()).unwrap_or(u64::MAX);
            thread::sleep(Duration::from_nanos(self.random.below(most)));
        }
    }

    fn submit(&mut self) -> Result<()> {
        for request in &self.requests {
            self.ram.write(request[2].address, &[0xff]);
            let added = self.ring.add(&self.ram, request);
            added.ok_or("the ring is too small")?;
        }
        if self.ring.publish(&self.ram) {
            rustix::io::write(&self.kick, &1_u64.to_ne_bytes())?;
        }
        Ok(())
    }

    /// Sleeps until the batch is answered.
    fn wait(&mut self) -> Result<()> {
        let mut left = self.requests.len();
        while left > 0 {
            self.sleep()?;
            while self.ring.take_used(&self.ram).is_some() {
                left = left.checked_sub(1).ok_or("more answers than requests")?;
            }
        }
        for request in &self.requests {
            let status = self.ram.read(request[2].address, 1);
            if status != [0] {
                return Err(format!("a request ended with status {status:?}").into());
            }
            self.answered += 1;
        }
        Ok(())
    }

    fn sleep(&self) -> Result<()> {
        let mut fds = [PollFd::new(&self.call, PollFlags::IN)];
        if poll(&mut fds, PATIENCE_MS)? == 0 {
            return Err("no answer in ten seconds".into());
        }
        rustix::io::read(&self.call, &mut [0; 8])?;
        Ok(())
    }
}

/// A read of the disk's first block: the memory is fresh, and a header of zeroes asks for that.
fn request(ram: &mut Ram) -> Request {
    [(16, false), (BLOCK, true), (1, true)].map(|(len, writable)| Buffer {
        address: ram.alloc(u64::from(len), 16),
        len,
        writable,
    })
}
