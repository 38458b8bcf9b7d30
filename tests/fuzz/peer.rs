//! A vhost-user front end that sends what it likes, in pieces, with fds of its choice.
#![forbid(unsafe_code)]

use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use gsource::{AioContext, Wait};
use qcontext::vhost_user::{Listener, OfferedDevice};
use qcontext::virtio::blk::{Blk, BlockSizes};
use support::deadline::DEADLINE;
use support::directory::TestDir;
use support::driven_disk::{eventfd, open_node};
use support::mock_driver::Ram;
use virtio_driver::ScmSocket;

use crate::mangle::Mangler;

const GET_FEATURES: u32 = 1;
/// The numbers of the requests there are, and one more.
const REQUESTS: usize = 42;
const RAM: u64 = 0x10_0000;
const USER: u64 = 0x7f00_0000_0000;

/// A disk that is offered at a socket, on a loop of the test's.
pub struct Target {
    aio: AioContext,
    path: PathBuf,
    _listener: Listener,
    ram: Ram,
    /// Conversations in which everything was said.
    complete: usize,
    _directory: TestDir,
}

fn message(number: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let size = u32::try_from(payload.len()).unwrap();
    for word in [number, flags, size] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(payload);
    bytes
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// What a front end says up to a running queue, and back: numbers and payloads.
fn script() -> Vec<(u32, Vec<u8>)> {
    let pair = |index: u64, number: u64| words(&[number << 32 | index]);
    vec![
        (3, vec![]),
        (1, vec![]),
        (2, words(&[1 << 32 | 1 << 30])),
        (15, vec![]),
        (16, words(&[0x8209])),
        (17, vec![]),
        (36, vec![]),
        (24, [words(&[60 << 32]), words(&[0; 8])].concat()),
        (37, words(&[0, 0, RAM, USER, 0])),
        (13, words(&[0])),
        (14, words(&[0])),
        (8, pair(0, 64)),
        (10, pair(0, 0)),
        (
            9,
            words(&[0, USER + 0x1000, USER + 0x3000, USER + 0x2000, 0]),
        ),
        (12, words(&[0])),
        (18, pair(0, 1)),
        (18, pair(0, 0)),
        (11, pair(0, 0)),
        (38, words(&[0, 0, RAM, USER, 0])),
        (4, vec![]),
    ]
}

impl Target {
    pub fn new() -> Target {
        let aio = AioContext::new().unwrap();
        let node = open_node("driver=null-co,size=64K").unwrap();
        let blk = Blk::new(
            "disk0",
            &node,
            vec![aio.clone()],
            "fuzz",
            BlockSizes::default(),
        )
        .unwrap();
        let directory = TestDir::new();
        let path = directory.socket("fuzz.sock");
        let served = OfferedDevice {
            device: Arc::new(blk),
            queue_size_max: 1024,
        };
        let listener = Listener::new("fuzz", &path, &aio, served).unwrap();
        let ram = Ram::new(usize::try_from(RAM).unwrap());
        Target {
            aio,
            path,
            _listener: listener,
            ram,
            complete: 0,
            _directory: directory,
        }
    }

    /// One connection's worth of nonsense; the next one is served like any other.
    pub fn converse(&mut self, mangler: &mut Mangler) {
        let mut socket = self.connect();
        self.complete += 1;
        for (number, payload) in script() {
            if mangler.below(20) == 0 {
                continue;
            }
            let fds = self.fds(mangler, number);
            let bytes = mangled_message(mangler, number, payload);
            if !self.send(&mut socket, mangler, &bytes, &fds) {
                self.complete -= 1;
                break;
            }
        }
        drop(socket);
        self.serves();
    }

    /// The nonsense is not so dense that nothing else is tried.
    pub fn check(&self) {
        assert!(self.complete > 0, "no conversation came to its end");
    }

    fn connect(&self) -> UnixStream {
        let socket = UnixStream::connect(&self.path).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    }

    /// The fds that belong to the message, or others.
    fn fds(&self, mangler: &mut Mangler, number: u32) -> Vec<OwnedFd> {
        let right = match number {
            37 => vec![self.ram.fd()],
            12..=14 => vec![eventfd()],
            _ => vec![],
        };
        match mangler.below(16) {
            0 => vec![],
            1 => vec![std::fs::File::open("/dev/zero").unwrap().into()],
            2 => (0..mangler.below(12)).map(|_| eventfd()).collect(),
            3 => vec![self.ram.fd()],
            _ => right,
        }
    }

    /// Sends the bytes in pieces, the fds with the first; false when the peer has hung up.
    fn send(
        &self,
        socket: &mut UnixStream,
        mangler: &mut Mangler,
        bytes: &[u8],
        fds: &[OwnedFd],
    ) -> bool {
        let mut raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(1 + mangler.below(rest.len()));
            if socket.send_with_fds(&[IoSlice::new(piece)], &raw).is_err() {
                return false;
            }
            raw.clear();
            rest = later;
            self.iterate(socket);
        }
        true
    }

    /// Lets the device act, and takes its answers.
    fn iterate(&self, socket: &mut UnixStream) {
        for _ in 0..2 {
            self.aio.poll(Wait::NoBlock).unwrap();
        }
        let _ = socket.read(&mut [0; 4096]);
    }

    /// A well-behaved front end gets its answer.
    fn serves(&self) {
        let mut socket = self.connect();
        socket.write_all(&message(GET_FEATURES, 1, &[])).unwrap();
        let (begin, mut answer) = (Instant::now(), [0; 20]);
        while socket.read_exact(&mut answer).is_err() {
            assert!(begin.elapsed() < DEADLINE, "no answer");
            self.aio.poll(Wait::NoBlock).unwrap();
        }
        assert_eq!(answer[..4], GET_FEATURES.to_le_bytes());
    }
}

/// The message as it should be, or with a wrong number, flags, size, or payload.
fn mangled_message(mangler: &mut Mangler, number: u32, payload: Vec<u8>) -> Vec<u8> {
    let number = match mangler.below(16) {
        0 => u32::try_from(mangler.below(REQUESTS)).unwrap(),
        _ => number,
    };
    let flags = match mangler.below(16) {
        0 => u32::try_from(mangler.number() & 0xffff_ffff).unwrap(),
        1..8 => 9,
        _ => 1,
    };
    let payload = match mangler.below(6) {
        0 => mangler.mangled(&[payload]),
        _ => payload,
    };
    let mut bytes = message(number, flags, &payload);
    if mangler.below(24) == 0 {
        bytes = mangler.mangled(&[bytes]);
    }
    bytes
}
