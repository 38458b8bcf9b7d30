//! `qctx` is killed while a guest allocates, zeroes and discards clusters of a qcow2 image, and while the image is resized: it is good
//! afterwards, and what was flushed is there.
//!
//! QCOW2_KILLS says how often (10).
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "vhost-user"))]
#![allow(clippy::unwrap_used)] // also in what tests call

use std::time::Duration;

use support::directory::TestDir;
use support::front_end::{Guest, Io};
use support::qemu_img::{check, content, missing, qemu_img, wait_unlocked};
use support::random::Random;
use support::server::Server;
use support::skip::skip;

const SIZE: usize = 16 << 20;
/// What an image is resized to.
const LONGER: usize = 24 << 20;
const BLOCK: usize = 16 << 10;
const BLOCKS: usize = SIZE / BLOCK;
const DEPTH: usize = 32;

const SERVED: [&str; 6] = [
    "-object",
    "qcontext,id=ctx1,threaded=yes",
    "-drive",
    "if=none,id=d0,file=disk.qcow2,format=qcow2",
    "-device",
    "virtio-blk,id=disk0,drive=d0,x-data-plane=on,context=ctx1,vhost-user=disk0.sock",
];

/// A disk that a guest changes, and what must be there.
struct Changes {
    guest: Guest,
    random: Random,
    /// The blocks in the order in which they are written; each is written once.
    order: Vec<usize>,
    written: usize,
    expected: Vec<u8>,
}

impl Changes {
    fn new(guest: Guest, seed: u64, expected: Vec<u8>) -> Changes {
        let mut random = Random(seed);
        let mut order: Vec<usize> = (0..BLOCKS).collect();
        for place in (1..BLOCKS).rev() {
            order.swap(place, random.index(place + 1));
        }
        Changes {
            guest,
            random,
            order,
            written: 0,
            expected,
        }
    }

    /// Submits writes to the next blocks.
    fn submit(&mut self) -> Vec<usize> {
        let blocks = self.order[self.written..][..DEPTH].to_vec();
        self.written += DEPTH;
        for (slot, block) in blocks.iter().enumerate() {
            let memory = slot * BLOCK;
            let bytes = &mut self.guest.memory.bytes()[memory..memory + BLOCK];
            self.random.fill(bytes);
            let io = Io {
                write: true,
                offset: (block * BLOCK) as u64,
                segments: vec![(memory, BLOCK)],
            };
            self.guest.submit(0, slot, &io);
        }
        blocks
    }

    /// Writes blocks and flushes them.
    fn write_and_flush(&mut self) {
        let blocks = self.submit();
        self.guest.kick(0);
        let mut left = DEPTH;
        while left > 0 {
            let finished = self.guest.wait(0);
            assert!(finished.iter().all(|&(_, result)| result == 0));
            left -= finished.len();
        }
        assert_eq!(self.guest.flush(0), 0);
        for (slot, block) in blocks.into_iter().enumerate() {
            let bytes = &self.guest.memory.bytes()[slot * BLOCK..(slot + 1) * BLOCK];
            self.expected[block * BLOCK..(block + 1) * BLOCK].copy_from_slice(bytes);
        }
    }

    /// Changes blocks at once, and waits for some of that. Returns the blocks. Without `discards` tables grow only: nothing makes
    /// the image write them in between.
    fn change_some(&mut self, discards: bool) -> Vec<usize> {
        let mut changed = Vec::new();
        if discards {
            changed.extend_from_slice(&self.order[..DEPTH]);
        }
        for (slot, block) in changed.iter().enumerate() {
            let offset = (block * BLOCK) as u64;
            if slot % 2 == 0 {
                self.guest
                    .submit_discard(0, DEPTH + slot, offset, BLOCK as u64);
            } else {
                self.guest
                    .submit_zeroes(0, DEPTH + slot, offset, BLOCK as u64);
            }
        }
        changed.extend(self.submit());
        self.guest.kick(0);
        let mut left = self.random.index(changed.len() + 1);
        while left > 0 {
            let finished = self.guest.try_wait(0, Duration::from_millis(20)).len();
            left = left.saturating_sub(finished.max(1));
        }
        changed
    }
}

#[test]
fn an_image_survives_a_kill_and_has_what_was_flushed() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let rounds = std::env::var("QCOW2_KILLS");
    let rounds = rounds.map_or(10, |text| text.parse().unwrap());
    for round in 0..rounds {
        let directory = TestDir::new();
        let folder = directory.path();
        let mut base = vec![0; SIZE];
        Random(round).fill(&mut base[..SIZE / 2]);
        std::fs::write(directory.file("base.raw"), &base).unwrap();
        let cluster = match round % 3 {
            0 => "cluster_size=64k",
            1 => "cluster_size=4k",
            _ => "cluster_size=512",
        };
        let size = SIZE.to_string();
        let mut create = vec!["create", "-q", "-f", "qcow2", "-o", cluster];
        let has_base = round % 2 == 1;
        if has_base {
            create.extend(["-b", "base.raw", "-F", "raw"]);
        } else {
            base.fill(0);
        }
        create.extend(["disk.qcow2", &size]);
        qemu_img(folder, &create);

        let server = Server::start(&directory, &SERVED);
        let socket = directory.socket("disk0.sock");
        let guest = Guest::connect(&socket, 1, 256, true, DEPTH * BLOCK).unwrap();
        let mut changes = Changes::new(guest, round, base);
        for _ in 0..1 + round % 10 / 2 {
            changes.write_and_flush();
        }
        let mut client = server.client();
        let resizes = [round % 3 != 2, round % 3 == 1];
        // Longer, and in other rounds back again; the last one is not waited for.
        for (is_done, length) in resizes.into_iter().zip([LONGER, SIZE]) {
            if is_done {
                let command =
                    "{\"execute\":\"block_resize\",\"arguments\":{\"node-name\":\"d0\",\"size\":";
                client.send(format!("{command}{length}}}}}").as_bytes());
            }
        }
        let changed = changes.change_some(round % 4 < 2);
        drop(client);
        drop(server);
        wait_unlocked(folder, "disk.qcow2");

        check(folder, "disk.qcow2", true);
        let found = content(folder, "disk.qcow2");
        assert!([SIZE, LONGER].contains(&found.len()), "round {round}");
        assert!(found[SIZE..].iter().all(|&byte| byte == 0), "round {round}");
        for block in (0..BLOCKS).filter(|block| !changed.contains(block)) {
            let range = block * BLOCK..(block + 1) * BLOCK;
            let is_there = found[range.clone()] == changes.expected[range];
            assert!(is_there, "round {round}: block {block}");
        }
    }
}
