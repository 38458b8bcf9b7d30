//! A guest made of the `virtio-driver` crate: an independent vhost-user front end with its own idea of the protocol and of
//! virtqueues, sleeping on the completion eventfds as a guest sleeps on interrupts.
#![allow(unsafe_code)] // memory shared with the device

use std::io::Error;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use crate::deadline::DEADLINE;
use memmap2::MmapMut;
use virtio_driver::{
    EventFd, QueueNotifier, VhostUser, VirtioBlkConfig, VirtioBlkQueue, VirtioBlkTransport,
    VirtioFeatureFlags, iovec,
};

/// One data request, by slot.
pub struct Io {
    pub write: bool,
    pub offset: u64,
    /// Where the data is in the guest's memory, segment by segment.
    pub segments: Vec<(usize, usize)>,
}

/// A connected guest with running queues and some memory for data.
pub struct Guest {
    queues: Vec<Queue>,
    pub memory: Memory,
    // Unmaps the rings when dropped, so it goes last.
    transport: Box<VirtioBlkTransport>,
}

struct Queue {
    ring: VirtioBlkQueue<'static, usize>,
    kick: Box<dyn QueueNotifier>,
    call: Arc<EventFd>,
}

/// Memory shared with the device.
pub struct Memory {
    map: MmapMut,
    file: std::fs::File,
}

impl Memory {
    pub fn new(size: usize) -> Memory {
        let fd = rustix::fs::memfd_create("guest-data", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, size as u64).unwrap();
        let file = std::fs::File::from(fd);
        // SAFETY: the file is this process's own; the device changes it only where a request says so.
        let map = unsafe { MmapMut::map_mut(&file) }.unwrap();
        Memory { map, file }
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.map
    }
}

impl Guest {
    /// Connects to the socket, with `count` queues of `size` entries.
    pub fn connect(
        path: &Path,
        count: usize,
        size: u16,
        event_idx: bool,
        memory: usize,
    ) -> Result<Guest, Error> {
        let mut features =
            VirtioFeatureFlags::VERSION_1.bits() | 1 << 9 | 1 << 12 | 1 << 13 | 1 << 14;
        if event_idx {
            features |= VirtioFeatureFlags::RING_EVENT_IDX.bits();
        }
        let transport = VhostUser::new(path.to_str().unwrap(), features)?;
        let mut transport: Box<VirtioBlkTransport> = Box::new(transport);
        let rings = VirtioBlkQueue::setup_queues(&mut *transport, count, size)?;
        let memory = Memory::new(memory);
        let address = memory.map.as_ptr() as usize;
        transport.map_mem_region(address, memory.map.len(), memory.file.as_raw_fd(), 0)?;
        let queues = rings.into_iter().enumerate().map(|(index, ring)| Queue {
            ring,
            kick: transport.get_submission_notifier(index),
            call: transport.get_completion_fd(index),
        });
        Ok(Guest {
            queues: queues.collect(),
            memory,
            transport,
        })
    }

    /// The capacity in bytes.
    pub fn capacity(&self) -> u64 {
        u64::from(self.transport.get_config().unwrap().capacity) * 512
    }

    /// The size of the disk's logical blocks.
    pub fn block_size(&self) -> u32 {
        self.config().blk_size.into()
    }

    /// The configuration space.
    pub fn config(&self) -> VirtioBlkConfig {
        self.transport.get_config().unwrap()
    }

    /// The features that both sides agreed on.
    pub fn features(&self) -> u64 {
        self.transport.get_features()
    }

    /// Maps more memory while the queues run, and unmaps it again.
    pub fn map_and_unmap(&mut self, size: usize) -> Result<(), Error> {
        let more = Memory::new(size);
        let address = more.map.as_ptr() as usize;
        self.transport
            .map_mem_region(address, size, more.file.as_raw_fd(), 0)?;
        self.transport.unmap_mem_region(address, size)
    }

    pub fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// Puts a request into a queue without telling the device.
    pub fn submit(&mut self, queue: usize, tag: usize, io: &Io) {
        let base = self.memory.map.as_mut_ptr();
        let vector: Vec<iovec> = io
            .segments
            .iter()
            .map(|&(at, len)| {
                assert!(at + len <= self.memory.map.len());
                iovec {
                    iov_base: base.wrapping_add(at).cast(),
                    iov_len: len,
                }
            })
            .collect();
        let ring = &mut self.queues[queue].ring;
        let (start, count) = (vector.as_ptr(), vector.len());
        let submitted = if io.write {
            // SAFETY: every segment is inside of the guest's memory, which lives as long as the queue.
            unsafe { ring.writev(io.offset, start, count, tag) }
        } else {
            // SAFETY: as above.
            unsafe { ring.readv(io.offset, start, count, tag) }
        };
        submitted.unwrap();
    }

    pub fn submit_flush(&mut self, queue: usize, tag: usize) {
        self.queues[queue].ring.flush(tag).unwrap();
    }

    pub fn submit_discard(&mut self, queue: usize, tag: usize, offset: u64, length: u64) {
        self.queues[queue]
            .ring
            .discard(offset, length, tag)
            .unwrap();
    }

    pub fn submit_zeroes(&mut self, queue: usize, tag: usize, offset: u64, length: u64) {
        let ring = &mut self.queues[queue].ring;
        ring.write_zeroes(offset, length, true, tag).unwrap();
    }

    /// Tells the device about new requests if it wants to know.
    pub fn kick(&mut self, queue: usize) {
        let queue = &mut self.queues[queue];
        // Without EVENT_IDX the crate does not order its store of avail.idx before its load of used.flags.
        fence(Ordering::SeqCst);
        if queue.ring.avail_notif_needed() {
            queue.kick.notify().unwrap();
        }
    }

    /// Tags and results of what is finished on a queue; sleeps until there is something.
    pub fn wait(&mut self, queue: usize) -> Vec<(usize, i32)> {
        let start = Instant::now();
        loop {
            let finished = self.try_wait(queue, Duration::from_millis(500));
            if !finished.is_empty() {
                return finished;
            }
            assert!(start.elapsed() < DEADLINE, "no completion in time");
        }
    }

    /// As [`Guest::wait`], but gives up after one sleep.
    pub fn try_wait(&mut self, queue: usize, timeout: Duration) -> Vec<(usize, i32)> {
        let queue = &mut self.queues[queue];
        let finished = queue.take();
        if !finished.is_empty() {
            return finished;
        }
        queue.ring.set_used_notif_enabled(true);
        // As in `kick`, for used.idx.
        fence(Ordering::SeqCst);
        if !queue.ring.completions().has_next() {
            queue.sleep(timeout);
        }
        queue.ring.set_used_notif_enabled(false);
        queue.take()
    }

    /// One request from submission to completion.
    pub fn run(&mut self, queue: usize, io: &Io) -> i32 {
        self.submit(queue, 0, io);
        self.kick(queue);
        self.wait(queue)[0].1
    }

    pub fn flush(&mut self, queue: usize) -> i32 {
        self.submit_flush(queue, 0);
        self.kick(queue);
        self.wait(queue)[0].1
    }

    /// The call fd, for those who want to do harm with it.
    pub fn call_fd(&self, queue: usize) -> Arc<EventFd> {
        Arc::clone(&self.queues[queue].call)
    }

    /// The memory's file, for those who want to do harm with it.
    pub fn memory_file(&self) -> &std::fs::File {
        &self.memory.file
    }
}

impl Queue {
    fn take(&mut self) -> Vec<(usize, i32)> {
        let finished = self.ring.completions();
        finished.map(|done| (done.context, done.ret)).collect()
    }

    /// Sleeps until the device calls. Whether reading the fd alone would sleep is up to the device, which shares its flags.
    fn sleep(&self, timeout: Duration) {
        let mut fds = [rustix::event::PollFd::new(
            &*self.call,
            rustix::event::PollFlags::IN,
        )];
        let timeout = i32::try_from(timeout.as_millis()).unwrap();
        if rustix::event::poll(&mut fds, timeout).is_ok_and(|ready| ready > 0) {
            let _ = self.call.read();
        }
    }
}
