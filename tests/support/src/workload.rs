//! Random requests whose outcome is known: each slot of each queue owns a part of the disk and a part of the guest's memory,
//! writes random data to random places of it in oddly cut segments, and reads back what should be there.
#![forbid(unsafe_code)]

use crate::front_end::{Guest, Io};
use crate::random::Random;

/// How much of the disk, and of the memory, a slot owns.
const PART: usize = 32 * 1024;
/// The most segments of a request.
const SEGMENTS: usize = 5;
/// The longest request, so that it fits into a part at any offset within a sector.
const LONGEST: usize = 24 * 1024;

/// A number of requests at a queue depth, on every queue of the guest at once.
pub struct Workload {
    pub depth: usize,
    pub requests: usize,
    /// False for a disk that forgets: then only the results count.
    pub keeps_data: bool,
}

/// A slot's part of the disk as it should be; unknown until first read.
struct Slot {
    known: Option<Vec<u8>>,
    pending: Option<Pending>,
}

struct Pending {
    io: Io,
    data: Vec<u8>,
    /// Where in the part.
    at: usize,
}

impl Workload {
    /// How much memory a guest needs for it.
    pub fn memory(&self, queues: usize) -> usize {
        queues * self.depth * PART
    }

    /// Runs again and again until `is_over`, once at least.
    pub fn run_until(&self, guest: &mut Guest, random: &mut Random, is_over: impl Fn() -> bool) {
        loop {
            self.run(guest, random);
            if is_over() {
                return;
            }
        }
    }

    pub fn run(&self, guest: &mut Guest, random: &mut Random) {
        let queues = guest.queue_count();
        let count = queues * self.depth;
        let mut slots: Vec<Slot> = (0..count)
            .map(|_| Slot {
                known: None,
                pending: None,
            })
            .collect();
        let mut left = self.requests.max(count * 2);
        let mut in_flight = 0;
        for slot in 0..count {
            self.begin(guest, &mut slots, slot, random);
            in_flight += 1;
        }
        (0..queues).for_each(|queue| guest.kick(queue));
        let mut queue = 0;
        while in_flight > 0 {
            queue = (queue + 1) % queues;
            if !(0..self.depth).any(|slot| slots[queue * self.depth + slot].pending.is_some()) {
                continue;
            }
            for (slot, result) in guest.wait(queue) {
                self.end(guest, &mut slots, slot, result);
                in_flight -= 1;
                if left > 0 {
                    left -= 1;
                    self.begin(guest, &mut slots, slot, random);
                    in_flight += 1;
                }
            }
            guest.kick(queue);
        }
    }

    /// Submits a request of `slot`: the first reads everything, later ones write or read.
    fn begin(&self, guest: &mut Guest, slots: &mut [Slot], slot: usize, random: &mut Random) {
        let first = slots[slot].known.is_none();
        let write = !first && random.index(2) == 0;
        let length = if first {
            PART
        } else {
            512 * (1 + random.index(LONGEST / 512))
        };
        let at = 512 * random.index((PART - length) / 512 + 1);
        let shift = if first {
            0
        } else {
            random.index(PART - length + 1)
        };
        let memory = slot * PART + shift;
        let io = Io {
            write,
            offset: (slot * PART + at) as u64,
            segments: cut(memory, length, random),
        };
        let bytes = &mut guest.memory.bytes()[memory..memory + length];
        bytes.fill_with(|| random.number().to_le_bytes()[0]);
        let data = bytes.to_vec();
        guest.submit(slot / self.depth, slot, &io);
        slots[slot].pending = Some(Pending { io, data, at });
    }

    fn end(&self, guest: &mut Guest, slots: &mut [Slot], slot: usize, result: i32) {
        let pending = slots[slot].pending.take().expect("a request that was made");
        assert_eq!(result, 0, "a request of {} bytes", pending.data.len());
        let start = pending.io.segments[0].0;
        let length = pending.data.len();
        let range = pending.at..pending.at + length;
        let got = &guest.memory.bytes()[start..start + length];
        match (&mut slots[slot].known, pending.io.write) {
            (known @ None, _) => *known = Some(got.to_vec()),
            (Some(known), true) => known[range].copy_from_slice(&pending.data),
            (Some(known), false) if self.keeps_data => {
                assert!(known[range] == *got, "slot {slot} reads other data");
            }
            _ => {}
        }
    }
}

/// Cuts a range into up to [`SEGMENTS`] adjacent pieces at odd places.
fn cut(start: usize, length: usize, random: &mut Random) -> Vec<(usize, usize)> {
    let mut cuts: Vec<usize> = (0..random.index(SEGMENTS))
        .map(|_| 1 + random.index(length - 1))
        .chain([0, length])
        .collect();
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2)
        .map(|pair| (start + pair[0], pair[1] - pair[0]))
        .collect()
}
