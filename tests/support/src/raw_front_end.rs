//! A front end that writes its messages by hand, to say what no honest one would.
#![forbid(unsafe_code)]

use std::io::{IoSlice, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::event::EventfdFlags;
use rustix::fs::MemfdFlags;
use virtio_driver::ScmSocket;

pub const SET_FEATURES: u32 = 2;
pub const SET_OWNER: u32 = 3;
pub const SET_VRING_NUM: u32 = 8;
pub const SET_VRING_ADDR: u32 = 9;
pub const SET_VRING_BASE: u32 = 10;
pub const GET_VRING_BASE: u32 = 11;
pub const SET_VRING_KICK: u32 = 12;
pub const SET_VRING_CALL: u32 = 13;
pub const SET_VRING_ERR: u32 = 14;
pub const SET_PROTOCOL_FEATURES: u32 = 16;
pub const SET_VRING_ENABLE: u32 = 18;
pub const ADD_MEM_REG: u32 = 37;

const GET_FEATURES: u32 = 1;
const SET_BACKEND_REQ_FD: u32 = 21;
const GET_CONFIG: u32 = 24;
/// VERSION_1 and PROTOCOL_FEATURES.
const FEATURES: u64 = 1 << 32 | 1 << 30;
/// MQ, REPLY_ACK, BACKEND_REQ, CONFIG, CONFIGURE_MEM_SLOTS.
const PROTOCOL_FEATURES: u64 = 0x8229;
pub const RAM: usize = 1 << 20;
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;

/// One message to be.
pub struct Raw {
    pub request: u32,
    pub payload: Vec<u8>,
    pub fd: Option<OwnedFd>,
}

/// A connection of our own making.
pub struct FrontEnd {
    pub socket: UnixStream,
}

impl Raw {
    pub fn new(request: u32, payload: Vec<u8>, fd: Option<OwnedFd>) -> Raw {
        Raw {
            request,
            payload,
            fd,
        }
    }

    pub fn bytes(&self, need_reply: bool) -> Vec<u8> {
        let flags: u32 = if need_reply { 9 } else { 1 };
        let size = u32::try_from(self.payload.len()).unwrap();
        let head = [self.request, flags, size];
        let mut bytes: Vec<u8> = head.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

impl FrontEnd {
    pub fn connect(path: &Path) -> FrontEnd {
        let socket = UnixStream::connect(path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        FrontEnd { socket }
    }

    /// Sends part of a message, its fd with the first byte.
    pub fn send_part(&self, raw: &Raw, need_reply: bool, from: usize, to: usize) {
        let bytes = raw.bytes(need_reply);
        let fds: Vec<_> = raw.fd.iter().map(AsRawFd::as_raw_fd).collect();
        let fds = if from == 0 { &fds[..] } else { &[] };
        // A peer that has closed the connection already is what some tests are about.
        let _ = self
            .socket
            .send_with_fds(&[IoSlice::new(&bytes[from..to])], fds);
    }

    pub fn send(&self, raw: &Raw) {
        self.send_part(raw, false, 0, 12 + raw.payload.len());
    }

    /// Sends with NEED_REPLY and returns the acknowledgement; none when the connection was closed instead.
    pub fn ask(&self, raw: &Raw) -> Option<u64> {
        self.send_part(raw, true, 0, 12 + raw.payload.len());
        self.reply()
    }

    fn reply(&self) -> Option<u64> {
        let mut reply = [0; 20];
        (&self.socket).read_exact(&mut reply).ok()?;
        Some(u64::from_le_bytes(reply[12..].try_into().unwrap()))
    }

    /// True when the device still answers on this connection.
    pub fn is_served(&self) -> bool {
        self.ask(&Raw::new(GET_FEATURES, Vec::new(), None))
            .is_some()
    }

    /// Sends a socket for requests of the back end and returns the other end.
    pub fn backend_requests(&self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let message = Raw::new(SET_BACKEND_REQ_FD, Vec::new(), Some(theirs.into()));
        assert_eq!(self.ask(&message), Some(0));
        ours
    }

    /// The disk's size in bytes, as its configuration space says.
    pub fn capacity(&self) -> u64 {
        u64::from_le_bytes(self.config(0)) * 512
    }

    /// The size of the disk's blocks.
    pub fn block_size(&self) -> u32 {
        u32::from_le_bytes(self.config(20))
    }

    /// What the device offers.
    pub fn offered_features(&self) -> u64 {
        self.ask(&Raw::new(GET_FEATURES, Vec::new(), None)).unwrap()
    }

    /// A part of the configuration space.
    fn config<const N: usize>(&self, at: u32) -> [u8; N] {
        let mut window = pair(at, u32::try_from(N).unwrap());
        window.extend(vec![0; 4 + N]);
        self.send(&Raw::new(GET_CONFIG, window, None));
        let mut reply = vec![0; 12 + 12 + N];
        (&self.socket).read_exact(&mut reply).unwrap();
        reply[24..].try_into().unwrap()
    }

    /// Everything from owner to memory, in order.
    pub fn negotiation(memory: OwnedFd) -> Vec<Raw> {
        let region = words(&[0, 0, RAM as u64, 0, 0]);
        vec![
            Raw::new(SET_OWNER, Vec::new(), None),
            Raw::new(SET_FEATURES, words(&[FEATURES]), None),
            Raw::new(SET_PROTOCOL_FEATURES, words(&[PROTOCOL_FEATURES]), None),
            Raw::new(ADD_MEM_REG, region, Some(memory)),
        ]
    }

    /// Everything that starts queue 0, in order.
    pub fn queue(kick: OwnedFd, call: OwnedFd) -> Vec<Raw> {
        let mut addresses = pair(0, 0);
        addresses.extend(words(&[DESCRIPTORS, USED, AVAILABLE, 0]));
        vec![
            Raw::new(SET_VRING_NUM, pair(0, 64), None),
            Raw::new(SET_VRING_BASE, pair(0, 0), None),
            Raw::new(SET_VRING_ADDR, addresses, None),
            Raw::new(SET_VRING_CALL, words(&[0]), Some(call)),
            Raw::new(SET_VRING_ERR, words(&[0]), Some(eventfd())),
            Raw::new(SET_VRING_KICK, words(&[0]), Some(kick)),
            Raw::new(SET_VRING_ENABLE, pair(0, 1), None),
        ]
    }

    /// A connection whose queue 0 runs.
    pub fn running(path: &Path, memory: OwnedFd, kick: OwnedFd, call: OwnedFd) -> FrontEnd {
        let front_end = FrontEnd::connect(path);
        let messages = FrontEnd::negotiation(memory).into_iter();
        for message in messages.chain(FrontEnd::queue(kick, call)) {
            front_end.send(&message);
        }
        assert!(front_end.is_served());
        front_end
    }
}

/// Puts `count` reads of one sector into queue 0's rings in `memory`, each a chain of three descriptors.
pub fn write_requests(memory: &std::fs::File, count: u16) {
    use std::os::unix::fs::FileExt;
    let put = |at: u64, bytes: &[u8]| memory.write_all_at(bytes, at).unwrap();
    for index in 0..count {
        let buffer = 0x10000 + u64::from(index) * 0x1000;
        let chain = [
            (buffer, 16u32, 1u16),
            (buffer + 512, 512, 3),
            (buffer + 1024, 1, 2),
        ];
        for (step, (address, length, flags)) in (0u16..).zip(chain) {
            let descriptor = index * 3 + step;
            let mut bytes = address.to_le_bytes().to_vec();
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(&flags.to_le_bytes());
            bytes.extend_from_slice(&(descriptor + 1).to_le_bytes());
            put(DESCRIPTORS + u64::from(descriptor) * 16, &bytes);
        }
        put(
            AVAILABLE + 4 + u64::from(index) * 2,
            &(index * 3).to_le_bytes(),
        );
    }
    put(AVAILABLE + 2, &count.to_le_bytes());
}

/// How many requests the device has answered.
pub fn used_index(memory: &std::fs::File) -> u16 {
    use std::os::unix::fs::FileExt;
    let mut bytes = [0; 2];
    memory.read_exact_at(&mut bytes, USED + 2).unwrap();
    u16::from_le_bytes(bytes)
}

pub fn pair(index: u32, num: u32) -> Vec<u8> {
    [index.to_le_bytes(), num.to_le_bytes()].concat()
}

pub fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub fn eventfd() -> OwnedFd {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

pub fn memory() -> OwnedFd {
    let fd = rustix::fs::memfd_create("hostile-ram", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, RAM as u64).unwrap();
    fd
}
