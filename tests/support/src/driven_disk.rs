//! A virtio disk with a mock driver on it, driven by the test's own thread.
#![allow(unsafe_code)] // eventfds

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use gsource::{AioContext, Wait};
use qcontext::ErrorKind;
use qcontext::block::Node;
use qcontext::object::options;
use qcontext::virtio::blk::{Blk, BlockSizes};
use qcontext::virtio::{
    CallFd, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, GuestMemory, KickFd, MemoryRegion,
    QueueSetup, Signal, VirtioDevice,
};

use crate::deadline::DEADLINE;
use crate::directory::TestDir;
use crate::mock_driver::{Buffer, RAM_START, Ram, Ring};
use crate::random::Random;
use crate::skip::skip_case;

pub const IN: u32 = 0;
pub const OUT: u32 = 1;
pub const FLUSH: u32 = 4;
pub const GET_ID: u32 = 8;
pub const DISCARD: u32 = 11;
pub const WRITE_ZEROES: u32 = 13;

pub fn eventfd() -> OwnedFd {
    // SAFETY: creates an fd of our own.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    // SAFETY: just created.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

pub fn signal(fd: &OwnedFd, value: u64) {
    // SAFETY: eight valid bytes.
    let written = unsafe { libc::write(fd.as_raw_fd(), value.to_ne_bytes().as_ptr().cast(), 8) };
    assert_eq!(written, 8);
}

/// An eventfd as a guest's way to its device.
pub fn kick(fd: &OwnedFd) -> KickFd {
    KickFd::new(fd.try_clone().unwrap()).unwrap()
}

/// An eventfd as a device's way to its guest.
pub fn call(fd: &OwnedFd) -> Arc<dyn Signal> {
    Arc::new(CallFd::new(fd.try_clone().unwrap()).unwrap())
}

/// Takes the counter of an eventfd: 0 if it was not signalled.
pub fn take(fd: &OwnedFd) -> u64 {
    // SAFETY: a flag of our own fd.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    let mut count = [0; 8];
    // SAFETY: eight valid bytes.
    unsafe { libc::read(fd.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
    u64::from_ne_bytes(count)
}

/// What keeps an image.
#[derive(Clone, Copy, Debug)]
pub enum Medium {
    Memory,
    Disk,
}

/// An image that goes with its owner.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    _directory: TestDir,
}

impl Image {
    pub fn new(medium: Medium, bytes: &[u8]) -> Image {
        let directory = match medium {
            Medium::Memory => TestDir::in_memory(),
            Medium::Disk => TestDir::new(),
        };
        let path = directory.file("disk.raw");
        std::fs::write(&path, bytes).unwrap();
        Image {
            path,
            _directory: directory,
        }
    }

    pub fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

/// Opens a node under a fresh name; `options` without id.
pub fn open_node(options: &str) -> qcontext::Result<Arc<Node>> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let id = format!("d{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let text = format!("if=none,id={id},{options}");
    Node::open_drive(options::parse(None, &text).unwrap())
}

/// Where data is kept, and how: medium and options.
pub const STORES: [(Medium, &str); 6] = [
    (Medium::Memory, "aio=io_uring"),
    (Medium::Memory, "aio=threads"),
    (Medium::Disk, "aio=io_uring,cache=none"),
    (Medium::Disk, "aio=threads,cache=none"),
    (Medium::Disk, "aio=io_uring"),
    (Medium::Disk, "aio=threads,cache=directsync"),
];

/// Opens the image's node, or says why this machine cannot.
pub fn try_open(image: &Image, options: &str) -> Option<Arc<Node>> {
    let opened = open_node(&format!("file={},format=raw,{options}", image.path()));
    match opened {
        Err(error)
            if error.kind() == ErrorKind::Unsupported
                || error.raw_os_error() == Some(libc::EINVAL) =>
        {
            skip_case(options, error);
            None
        }
        opened => Some(opened.unwrap()),
    }
}

/// A driver's queue and the memory of its requests.
#[derive(Debug)]
pub struct Client {
    pub ring: Ring,
    pub kick: OwnedFd,
    pub call: OwnedFd,
    pub err: OwnedFd,
    pub index: u16,
    features: u64,
    slots: Vec<u64>,
    in_flight: BTreeMap<u16, Pending>,
}

#[derive(Debug)]
struct Pending {
    slot: u64,
    status: u64,
    data: u64,
    len: usize,
}

/// A finished request.
#[derive(Debug)]
pub struct Done {
    pub status: u8,
    pub written: u32,
    /// What the device wrote, for requests that read.
    pub data: Vec<u8>,
}

/// A disk, its guest's memory, and a loop that the test drives alone.
#[derive(Debug)]
pub struct Disk {
    pub aio: AioContext,
    pub blk: Arc<Blk>,
    pub ram: Ram,
    pub clients: Vec<Client>,
    pub random: Random,
}

/// The space for one request's data.
const SLOT: u64 = 1 << 20;

/// How the queues of a disk are made.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub queues: usize,
    pub size: u16,
    pub event_idx: bool,
    pub indirect: bool,
    pub slots: usize,
    pub sizes: BlockSizes,
}

impl Default for Shape {
    fn default() -> Self {
        Shape {
            queues: 1,
            size: 256,
            event_idx: false,
            indirect: false,
            slots: 16,
            sizes: BlockSizes::default(),
        }
    }
}

impl Disk {
    /// A disk with started queues.
    pub fn new(node: Arc<Node>, shape: Shape) -> Disk {
        let mut disk = Disk::stopped(node, shape);
        for index in 0..disk.clients.len() {
            disk.start(index, 0).unwrap();
        }
        disk.iterate(4);
        disk
    }

    pub fn stopped(node: Arc<Node>, shape: Shape) -> Disk {
        let aio = AioContext::new().unwrap();
        let contexts = vec![aio.clone(); shape.queues];
        let slots = shape.queues * shape.slots;
        let mut ram = Ram::new((slots + 4 * shape.queues) << 20);
        let clients = 0..shape.queues;
        let clients = clients.map(|index| Client::new(&mut ram, index, shape));
        Disk {
            clients: clients.collect(),
            blk: Arc::new(Blk::new("disk0", &node, contexts, "serial-0123", shape.sizes).unwrap()),
            aio,
            ram,
            random: Random(7),
        }
    }

    pub fn memory(&self) -> GuestMemory {
        let region = MemoryRegion {
            guest_addr: RAM_START,
            size: self.ram.size(),
            user_addr: 0,
            fd: self.ram.fd(),
            offset: 0,
        };
        GuestMemory::new().with_region(region).unwrap()
    }

    pub fn start(&mut self, index: usize, next_avail: u16) -> qcontext::Result<()> {
        let client = &self.clients[index];
        let setup = QueueSetup {
            size: client.ring.size,
            descriptors: client.ring.descriptors,
            available: client.ring.available,
            used: client.ring.used,
            next_avail,
            features: client.features,
            memory: self.memory(),
            kick: Some(kick(&client.kick)),
            call: Some(call(&client.call)),
            err: Some(call(&client.err)),
        };
        self.blk.start_queue(client.index, setup)
    }

    /// Stops a queue and waits until it is quiet; its next available index.
    pub fn stop(&mut self, index: usize) -> u16 {
        let stopped = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&stopped);
        let done = move |next| *tell.lock().unwrap() = Some(next);
        self.blk
            .stop_queue(self.clients[index].index, Box::new(done));
        self.wait(|_| stopped.lock().unwrap().is_some());
        let next = *stopped.lock().unwrap();
        next.unwrap()
    }

    /// Ends the disk and gives its image back.
    pub fn close(self) {
        let Disk { aio, blk, .. } = self;
        let name = blk.node().name().to_owned();
        drop(blk);
        let start = Instant::now();
        while Node::remove(&name).is_err() {
            assert!(start.elapsed() < DEADLINE, "the disk does not end");
            aio.poll(Wait::NoBlock).unwrap();
        }
    }

    pub fn iterate(&self, count: usize) {
        for _ in 0..count {
            self.aio.poll(Wait::NoBlock).unwrap();
        }
    }

    /// Drives the loop until `condition` holds.
    pub fn wait(&mut self, mut condition: impl FnMut(&mut Disk) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            assert!(start.elapsed() < DEADLINE, "the disk hangs");
            self.aio.poll(Wait::NoBlock).unwrap();
        }
    }

    /// Puts a request into a queue's ring: what the device reads (behind the header) and how much it may write.
    /// `pieces` is the most descriptors for each direction. Returns the head; not kicked yet.
    pub fn put(
        &mut self,
        index: usize,
        (kind, sector): (u32, u64),
        out: &[u8],
        writable: usize,
        pieces: u64,
    ) -> u16 {
        let client = &mut self.clients[index];
        let slot = client.slots.pop().expect("a free slot");
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        // Anywhere in the slot, so that alignment is a matter of luck.
        let shift = if pieces > 1 { self.random.below(64) } else { 0 };
        let data = (slot + 512 + shift).next_multiple_of(if pieces > 1 { 1 } else { 512 });
        let from = data - 16;
        self.ram.write(from, &header);
        self.ram.write(data, out);
        let mut buffers = Vec::new();
        let out_len = 16 + out.len() as u64;
        if pieces > 1 {
            split(
                &mut self.random,
                &mut buffers,
                (from, out_len, false),
                pieces,
            );
            let into = if out.is_empty() { data } else { data + out_len };
            split(
                &mut self.random,
                &mut buffers,
                (into, writable as u64 + 1, true),
                pieces,
            );
        } else {
            plain(&mut buffers, (data, out.len(), writable));
        }
        let last = buffers.last().unwrap();
        let status = last.address + u64::from(last.len) - 1;
        let data = if pieces > 1 {
            status - writable as u64
        } else {
            data
        };
        self.ram.write(status, &[0xff]);
        let head = client.ring.add(&self.ram, &buffers).unwrap();
        let pending = Pending {
            slot,
            status,
            data,
            len: writable,
        };
        client.in_flight.insert(head, pending);
        head
    }

    /// Shows the device what was put, and kicks if it wants to be.
    pub fn kick(&mut self, index: usize) -> bool {
        let client = &mut self.clients[index];
        let wanted = client.ring.publish(&self.ram);
        if wanted {
            signal(&client.kick, 1);
        }
        wanted
    }

    /// The next finished request.
    pub fn take_done(&mut self, index: usize) -> Option<(u16, Done)> {
        let client = &mut self.clients[index];
        let (head, written) = client.ring.take_used(&self.ram)?;
        if client.ring.event_idx {
            client.ring.set_used_event(&self.ram, client.ring.used_seen);
        }
        let pending = client.in_flight.remove(&head).expect("a head in flight");
        client.slots.push(pending.slot);
        let done = Done {
            status: self.ram.read(pending.status, 1)[0],
            written,
            data: self.ram.read(pending.data, pending.len),
        };
        Some((head, done))
    }

    /// One request from beginning to end, in three plain descriptors.
    pub fn request(&mut self, kind: (u32, u64), out: &[u8], writable: usize) -> Done {
        let head = self.put(0, kind, out, writable, 1);
        self.kick(0);
        let mut done = None;
        self.wait(|disk| {
            done = disk.take_done(0);
            done.is_some()
        });
        let (finished, done) = done.unwrap();
        assert_eq!(finished, head);
        done
    }
}

impl Client {
    fn new(ram: &mut Ram, index: usize, shape: Shape) -> Client {
        let mut features = F_VERSION_1;
        if shape.event_idx {
            features |= F_EVENT_IDX;
        }
        if shape.indirect {
            features |= F_INDIRECT_DESC;
        }
        let slots = 0..shape.slots;
        Client {
            ring: Ring::new(ram, shape.size, shape.event_idx, shape.indirect),
            kick: eventfd(),
            call: eventfd(),
            err: eventfd(),
            index: u16::try_from(index).unwrap(),
            features,
            slots: slots.map(|_| ram.alloc(SLOT + 8192, 4096)).collect(),
            in_flight: BTreeMap::new(),
        }
    }
}

/// Header, data and status in descriptors of their own.
fn plain(buffers: &mut Vec<Buffer>, (data, out, writable): (u64, usize, usize)) {
    let mut push = |address, len: usize, write| {
        if len > 0 {
            let len = u32::try_from(len).unwrap();
            buffers.push(Buffer {
                address,
                len,
                writable: write,
            });
        }
    };
    push(data - 16, 16, false);
    push(data, out, false);
    push(data, writable, true);
    push(data - 32, 1, true);
}

/// Cuts a range into at most `pieces` at random borders.
fn split(
    random: &mut Random,
    buffers: &mut Vec<Buffer>,
    (start, len, writable): (u64, u64, bool),
    pieces: u64,
) {
    let mut cuts = vec![0, len];
    cuts.extend((1..pieces).map(|_| random.below(len + 1)));
    cuts.sort_unstable();
    cuts.dedup();
    for pair in cuts.windows(2) {
        buffers.push(Buffer {
            address: start + pair[0],
            len: u32::try_from(pair[1] - pair[0]).unwrap(),
            writable,
        });
    }
}
