//! qcow2 images that QMP resizes while a guest uses them: the guest sees the new capacity, keeps its data, reads zeroes behind it,
//! and `qemu-img` finds a good image with the same content.
//!
//! Needs `qemu-img`; the tests say SKIP where that is not installed.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "vhost-user"))]
#![allow(clippy::unwrap_used)] // also in what tests call

use support::directory::TestDir;
use support::front_end::{Guest, Io};
use support::qemu_img::{check, content, missing, qemu_img};
use support::qmp::Client;
use support::random::Random;
use support::server::Server;
use support::skip::skip;

const MIB: usize = 1 << 20;
/// Its end is in the middle of a cluster of any size.
const SIZE: usize = MIB + 512;
const PIECE: usize = 64 << 10;

const SERVED: [&str; 6] = [
    "-object",
    "qcontext,id=ctx1,threaded=yes",
    "-drive",
    "if=none,id=d0,file=disk.qcow2,format=qcow2",
    "-device",
    "virtio-blk,id=disk0,drive=d0,x-data-plane=on,context=ctx1,vhost-user=disk0.sock",
];

/// How the image is made: the arguments of `qemu-img` without the name and the size.
const KINDS: [&[&str]; 7] = [
    &["-o", "cluster_size=64k"],
    &["-o", "cluster_size=512"],
    &["-o", "cluster_size=512,compat=0.10"],
    &["-o", "data_file=data.raw"],
    &["-o", "cluster_size=4k", "-b", "base.raw", "-F", "raw"],
    &["-o", "cluster_size=512", "-b", "base.raw", "-F", "raw"],
    &["-o", "compat=0.10", "-b", "base.raw", "-F", "raw"],
];

/// A guest with a disk, and what should be on it.
struct Resized {
    guest: Guest,
    client: Client,
    expected: Vec<u8>,
}

impl Resized {
    fn resize(&mut self, length: usize) {
        let command = format!(
            r#"{{"execute":"block_resize","arguments":{{"node-name":"d0","size":{length}}}}}"#
        );
        assert_eq!(self.client.ask(command), "{\"return\": {}}");
        assert_eq!(self.guest.capacity(), length as u64);
        self.expected.resize(length, 0);
    }

    fn transfer(&mut self, write: bool, at: usize, len: usize) {
        let io = Io {
            write,
            offset: at as u64,
            segments: vec![(0, len)],
        };
        self.guest.submit(0, 0, &io);
        self.guest.kick(0);
        assert_eq!(self.guest.wait(0), [(0, 0)], "{len} bytes at {at}");
    }

    fn write(&mut self, at: usize, len: usize, seed: u64) {
        Random(seed).fill(&mut self.guest.memory.bytes()[..len]);
        self.expected[at..at + len].copy_from_slice(&self.guest.memory.bytes()[..len]);
        self.transfer(true, at, len);
    }

    fn compare(&mut self, kind: &[&str]) {
        for at in (0..self.expected.len()).step_by(PIECE) {
            let len = PIECE.min(self.expected.len() - at);
            self.transfer(false, at, len);
            let same = self.guest.memory.bytes()[..len] == self.expected[at..at + len];
            assert!(same, "{kind:?} with {} bytes: at {at}", self.expected.len());
        }
    }
}

fn create(directory: &TestDir, kind: &[&str]) -> Vec<u8> {
    let mut base = vec![0; 4 * MIB];
    Random(5).fill(&mut base);
    std::fs::write(directory.file("base.raw"), &base).unwrap();
    let size = SIZE.to_string();
    let mut arguments = vec!["create", "-q", "-f", "qcow2"];
    arguments.extend(kind);
    arguments.extend(["disk.qcow2", &size]);
    qemu_img(directory.path(), &arguments);
    match kind.contains(&"-b") {
        true => base[..SIZE].to_vec(),
        false => vec![0; SIZE],
    }
}

#[test]
fn guest_keeps_its_data_and_reads_zeroes_behind_it() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    for kind in KINDS {
        let directory = TestDir::new();
        let expected = create(&directory, kind);
        let mut server = Server::start(&directory, &SERVED);
        let guest = Guest::connect(&directory.socket("disk0.sock"), 1, 256, true, PIECE).unwrap();
        let mut disk = Resized {
            guest,
            client: server.client(),
            expected,
        };
        assert_eq!(disk.guest.capacity(), SIZE as u64);
        disk.write(SIZE - PIECE, PIECE, 1);
        disk.resize(5 * MIB);
        disk.compare(kind);
        disk.write(5 * MIB - PIECE, PIECE, 2);
        disk.write(MIB, PIECE, 3);
        disk.resize(MIB + 2560);
        disk.compare(kind);
        disk.resize(3 * MIB);
        disk.compare(kind);
        disk.write(3 * MIB - PIECE, PIECE, 4);
        disk.resize(40 * MIB);
        disk.write(39 * MIB, PIECE, 5);
        disk.compare(kind);
        drop((disk.guest, disk.client));
        server.stop();
        check(directory.path(), "disk.qcow2", false);
        let found = content(directory.path(), "disk.qcow2");
        assert!(found == disk.expected, "{kind:?}");
    }
}

#[test]
fn image_grows_and_shrinks_under_load() {
    const QUEUE: usize = 16;
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let directory = TestDir::new();
    create(&directory, KINDS[1]);
    let mut server = Server::start(&directory, &SERVED);
    let socket = directory.socket("disk0.sock");
    let mut guest = Guest::connect(&socket, 1, 256, true, QUEUE * 4096).unwrap();
    let mut client = server.client();
    let mut random = Random(8);
    for round in 0..60 {
        let length = 2 * MIB + 512 * random.index(8 * MIB / 512);
        client.send(
            format!(
                r#"{{"execute":"block_resize","arguments":{{"node-name":"d0","size":{length}}}}}"#
            )
            .as_bytes(),
        );
        for slot in 0..QUEUE {
            let offset = 4096 * random.below((SIZE / 4096) as u64 - 1);
            match slot % 4 {
                0 => guest.submit_discard(0, slot, offset, 4096),
                1 => guest.submit_zeroes(0, slot, offset, 4096),
                _ => guest.submit(
                    0,
                    slot,
                    &Io {
                        write: slot % 4 == 2,
                        offset,
                        segments: vec![(slot * 4096, 4096)],
                    },
                ),
            }
        }
        guest.kick(0);
        let mut left = QUEUE;
        while left > 0 {
            let finished = guest.wait(0);
            assert!(
                finished.iter().all(|&(_, result)| result == 0),
                "round {round}"
            );
            left -= finished.len();
        }
        assert_eq!(client.line(), "{\"return\": {}}");
        assert_eq!(guest.capacity(), length as u64);
    }
    drop(guest);
    drop(client);
    server.stop();
    check(directory.path(), "disk.qcow2", false);
}
