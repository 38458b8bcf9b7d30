//! Reads, writes, zeroes and discards over vhost-user, with a copy of the disk in memory as it should be.
//!
//! The first half of the disk has requests that do not overlap at any time, and each read is compared. The second half has
//! requests that overlap in every way: what they leave there is anybody's guess, but they must not harm the first half.
#![forbid(unsafe_code)]

use crate::front_end::{Guest, Io};
use crate::random::Random;

/// The unit of requests.
pub const UNIT: usize = 8 * 1024;
/// How many requests are in flight, half of them compared.
const DEPTH: usize = 32;

/// The copy of a disk.
pub struct Shadow {
    bytes: Vec<u8>,
    random: Random,
}

#[derive(Clone, Copy)]
enum Change {
    Read,
    Write,
    Zero,
    Discard,
}

impl Shadow {
    /// How much memory a guest needs.
    pub const MEMORY: usize = DEPTH * UNIT;

    /// The copy of a disk that has `bytes` in its first half, which are as many units as there may be requests or more.
    pub fn new(bytes: Vec<u8>, seed: u64) -> Shadow {
        Shadow {
            bytes,
            random: Random(seed),
        }
    }

    /// What the first half of the disk should be.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Runs so many rounds of requests on all queues.
    pub fn run(&mut self, guest: &mut Guest, rounds: usize) {
        for _ in 0..rounds {
            self.round(guest);
        }
    }

    fn round(&mut self, guest: &mut Guest) {
        let queues = guest.queue_count();
        let units = self.bytes.len() / UNIT;
        let first = self.random.index(units);
        let stride = 1 + 2 * self.random.index(units / DEPTH / 2);
        let mut compared = Vec::new();
        for slot in 0..DEPTH {
            let queue = slot % queues;
            if slot < DEPTH / 2 {
                let unit = (first + slot * stride) % units;
                let change = self.pick(false);
                self.submit(guest, queue, slot, unit * UNIT, UNIT, change);
                compared.push((slot, unit * UNIT, change));
            } else {
                let length = 512 * (1 + self.random.index(UNIT / 512));
                // All within a few clusters.
                let at = 512 * self.random.index(256);
                let change = self.pick(true);
                self.submit(guest, queue, slot, self.bytes.len() + at, length, change);
            }
        }
        (0..queues).for_each(|queue| guest.kick(queue));
        finish(guest, DEPTH);
        for (slot, at, change) in compared {
            self.settle(guest, slot, at, change);
        }
    }

    fn pick(&mut self, may_discard: bool) -> Change {
        match self.random.index(6) {
            0 => Change::Zero,
            1 if may_discard => Change::Discard,
            1..=3 => Change::Write,
            _ => Change::Read,
        }
    }

    fn submit(
        &mut self,
        guest: &mut Guest,
        queue: usize,
        slot: usize,
        at: usize,
        length: usize,
        change: Change,
    ) {
        let (offset, count) = (at as u64, length as u64);
        let memory = slot * UNIT;
        match change {
            Change::Zero => guest.submit_zeroes(queue, slot, offset, count),
            Change::Discard => guest.submit_discard(queue, slot, offset, count),
            Change::Read | Change::Write => {
                self.random
                    .fill(&mut guest.memory.bytes()[memory..memory + length]);
                let io = Io {
                    write: matches!(change, Change::Write),
                    offset,
                    segments: vec![(memory, length)],
                };
                guest.submit(queue, slot, &io);
            }
        }
    }

    fn settle(&mut self, guest: &mut Guest, slot: usize, at: usize, change: Change) {
        let memory = &guest.memory.bytes()[slot * UNIT..(slot + 1) * UNIT];
        let bytes = &mut self.bytes[at..at + UNIT];
        match change {
            Change::Read => assert!(*bytes == *memory, "other data at {at}"),
            Change::Write => bytes.copy_from_slice(memory),
            Change::Zero | Change::Discard => bytes.fill(0),
        }
    }
}

/// Waits for so many requests, which all succeed.
fn finish(guest: &mut Guest, count: usize) {
    let mut left = count;
    for queue in (0..guest.queue_count()).cycle() {
        if left == 0 {
            return;
        }
        for (tag, result) in guest.try_wait(queue, std::time::Duration::from_millis(1)) {
            assert_eq!(result, 0, "request {tag}");
            left -= 1;
        }
    }
}
