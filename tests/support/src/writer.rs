//! A vhost-user driver that writes numbered blocks, many at a time, and remembers which were
//! acknowledged. Made of the `virtio-driver` crate.
#![allow(unsafe_code)] // one shared mapping, for the data

use std::os::fd::AsRawFd;
use std::path::Path;

use memmap2::MmapMut;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use virtio_driver::{VhostUser, VirtioBlkQueue, VirtioBlkTransport, VirtioFeatureFlags};

pub const BLOCK: usize = 4096;
const DEPTH: usize = 32;
/// Three descriptors for each request.
const QUEUE_SIZE: u16 = 128;

/// The content of block `number`, which is never that of an empty image.
pub fn content(number: usize) -> Vec<u8> {
    let word = (number as u64 + 1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .to_ne_bytes();
    word.repeat(BLOCK / word.len())
}

/// The driver. Block after block of the disk is written, each once.
pub struct Writer {
    queue: VirtioBlkQueue<'static, (usize, usize)>,
    transport: Box<VirtioBlkTransport>,
    memory: MmapMut,
    next: usize,
    /// The numbers of the blocks whose writes were acknowledged.
    pub acknowledged: Vec<usize>,
}

impl Writer {
    /// Connects and submits the first writes.
    pub fn connect(socket: &Path) -> Writer {
        let features = VirtioFeatureFlags::VERSION_1.bits();
        let socket = socket.to_str().unwrap();
        let mut transport: Box<VirtioBlkTransport> =
            Box::new(VhostUser::new(socket, features).unwrap());
        let mut queues = VirtioBlkQueue::setup_queues(transport.as_mut(), 1, QUEUE_SIZE).unwrap();
        let file = memfd_create("writer", MemfdFlags::CLOEXEC).unwrap();
        let size = DEPTH * BLOCK;
        ftruncate(&file, size as u64).unwrap();
        // SAFETY: only the server shares the memory, and it reads what a request names; we write
        // to a place only while no request names it.
        let memory = unsafe { MmapMut::map_mut(&file) }.unwrap();
        transport
            .map_mem_region(memory.as_ptr().addr(), size, file.as_raw_fd(), 0)
            .unwrap();
        let queue = queues.remove(0);
        let mut writer = Writer {
            queue,
            transport,
            memory,
            next: 0,
            acknowledged: Vec::new(),
        };
        (0..DEPTH).for_each(|slot| writer.submit(slot));
        writer.kick();
        writer
    }

    fn submit(&mut self, slot: usize) {
        let place = &mut self.memory[slot * BLOCK..][..BLOCK];
        place.copy_from_slice(&content(self.next));
        let offset = (self.next * BLOCK) as u64;
        self.queue.write(offset, place, (slot, self.next)).unwrap();
        self.next += 1;
    }

    /// Always kicks: whether it is wanted is not what is tested.
    fn kick(&self) {
        self.transport.get_submission_notifier(0).notify().unwrap();
    }

    /// Takes the acknowledgements there are; the places that have become free.
    pub fn collect(&mut self) -> Vec<usize> {
        let mut free = Vec::new();
        for completion in self.queue.completions() {
            let (slot, number) = completion.context;
            assert_eq!(completion.ret, 0, "write of block {number}");
            self.acknowledged.push(number);
            free.push(slot);
        }
        free
    }

    /// Waits for the writes that are under way.
    pub fn finish(&mut self) {
        while self.acknowledged.len() < self.next {
            self.collect();
            std::thread::yield_now();
        }
    }

    /// Goes on writing until so many blocks are acknowledged, and leaves the next writes under way.
    pub fn write_until(&mut self, blocks: usize) {
        while self.acknowledged.len() < blocks {
            let free = self.collect();
            if free.is_empty() {
                std::thread::yield_now();
                continue;
            }
            free.into_iter().for_each(|slot| self.submit(slot));
            self.kick();
        }
    }
}
