//! The queue against a mock driver: notifications, batches, and everything a guest can get wrong.
#![forbid(unsafe_code)]

mod exhaustive;
mod handshake;

use super::*;
use crate::virtio::memory::{GuestSlice, MemoryRegion};
use support::mock_driver::{Buffer, INDIRECT, NEXT, RAM_START, Ram, Ring as Driver};
use support::random::Random;

struct Pair {
    ram: Ram,
    driver: Driver,
    queue: Virtqueue,
    /// The chain that was popped last.
    last: Seen,
}

/// What is looked at of a chain: its head, and the lengths of its slices.
#[derive(Debug, Default)]
struct Seen {
    head: u16,
    readable: Vec<usize>,
    writable: Vec<usize>,
}

impl Seen {
    fn new(chain: &Chain<'_>) -> Seen {
        let lens = |slices: &[GuestSlice<'_>]| slices.iter().map(|slice| slice.len()).collect();
        Seen {
            head: chain.head(),
            readable: lens(chain.readable()),
            writable: lens(chain.writable()),
        }
    }
}

/// Pops a chain, out of the memory that the queue lies in.
fn pop(queue: &mut Virtqueue) -> Result<(Popped, Seen), Broken> {
    let memory = queue.memory().clone();
    let mut chain = Chain::new(&memory, ChainRoom::default());
    let popped = queue.pop(&mut chain)?;
    Ok((popped, Seen::new(&chain)))
}

fn setup(ram: &Ram, driver: &Driver, features: u64) -> QueueSetup {
    let region = MemoryRegion {
        guest_addr: RAM_START,
        size: ram.size(),
        user_addr: 0,
        fd: ram.fd(),
        offset: 0,
    };
    QueueSetup {
        size: driver.size,
        descriptors: driver.descriptors,
        available: driver.available,
        used: driver.used,
        next_avail: 0,
        features,
        memory: GuestMemory::new().with_region(region).unwrap(),
        kick: None,
        call: None,
        err: None,
    }
}

impl Pair {
    fn new(size: u16, event_idx: bool, indirect: bool) -> Pair {
        let mut ram = Ram::new(1 << 20);
        let driver = Driver::new(&mut ram, size, event_idx, indirect);
        let mut features = 0;
        if event_idx {
            features |= F_EVENT_IDX;
        }
        if indirect {
            features |= F_INDIRECT_DESC;
        }
        let queue = Virtqueue::new(&setup(&ram, &driver, features)).unwrap();
        Pair {
            ram,
            driver,
            queue,
            last: Seen::default(),
        }
    }

    fn pop(&mut self) -> Result<Popped, Broken> {
        let popped;
        (popped, self.last) = pop(&mut self.queue)?;
        Ok(popped)
    }

    fn add(&mut self, buffers: &[Buffer]) -> u16 {
        let head = self.driver.add(&self.ram, buffers).unwrap();
        self.driver.publish(&self.ram);
        head
    }

    /// Pops one chain and gives it back.
    fn serve(&mut self) {
        assert_eq!(self.pop(), Ok(Popped::Chain));
        self.queue.push_used(self.last.head, 1);
    }
}

fn buffer(len: u32, writable: bool) -> Buffer {
    Buffer {
        address: RAM_START + 0x8_0000,
        len,
        writable,
    }
}

const REQUEST: fn() -> [Buffer; 3] = || [buffer(16, false), buffer(512, true), buffer(1, true)];

#[test]
fn chains_arrive_in_order_direct_and_indirect() {
    for indirect in [false, true] {
        let mut pair = Pair::new(16, false, indirect);
        for round in 0..100 {
            let head = pair.add(&REQUEST());
            assert_eq!(pair.pop(), Ok(Popped::Chain), "round {round}");
            assert_eq!(pair.last.head, head);
            assert_eq!(pair.last.readable, [16]);
            assert_eq!(pair.last.writable, [512, 1]);
            pair.queue.push_used(head, 513);
            assert!(pair.queue.publish());
            assert_eq!(pair.driver.take_used(&pair.ram), Some((head, 513)));
        }
    }
}

#[test]
fn used_index_moves_once_per_batch() {
    let mut pair = Pair::new(16, false, false);
    for _ in 0..5 {
        pair.add(&[buffer(1, true)]);
    }
    (0..5).for_each(|_| pair.serve());
    assert_eq!(pair.driver.used_index(&pair.ram), 0);
    assert!(pair.queue.publish());
    assert_eq!(pair.driver.used_index(&pair.ram), 5);
    assert!(!pair.queue.publish(), "nothing new, no call");
}

#[test]
fn no_interrupt_flag_is_obeyed_without_event_idx() {
    let mut pair = Pair::new(8, false, false);
    for unwanted in [true, false, true] {
        pair.driver.set_no_interrupt(&pair.ram, unwanted);
        pair.add(&[buffer(1, true)]);
        pair.serve();
        assert_eq!(pair.queue.publish(), !unwanted);
        pair.driver.take_used(&pair.ram).unwrap();
    }
}

#[test]
fn event_idx_calls_exactly_when_the_event_is_passed() {
    // (used index before, batch, event, call?)
    let cases = [
        (0, 1, 0, true),
        (1, 1, 0, false),
        (2, 3, 4, true),
        (5, 3, 8, false),
        (8, 2, 7, false),
    ];
    let mut pair = Pair::new(8, true, false);
    for (before, batch, event, call) in cases {
        assert_eq!(pair.driver.used_index(&pair.ram), before);
        pair.driver.set_used_event(&pair.ram, event);
        for _ in 0..batch {
            pair.add(&[buffer(1, true)]);
        }
        (0..batch).for_each(|_| pair.serve());
        assert_eq!(
            pair.queue.publish(),
            call,
            "used {before} + {batch}, event {event}"
        );
        while pair.driver.take_used(&pair.ram).is_some() {}
    }
}

#[test]
fn event_arithmetic_wraps() {
    let cases = [
        (65535, 0, 65535, true),
        (0, 0, 65535, false),
        (65534, 0, 65535, false),
        (0, 1, 65535, true),
        (100, 50, 40, false),
    ];
    for (event, new, old, passed) in cases {
        assert_eq!(event_passed(event, new, old), passed, "{event} {new} {old}");
    }
}

#[test]
fn kicks_are_unwanted_while_busy_and_wanted_when_idle() {
    for event_idx in [false, true] {
        let mut pair = Pair::new(8, event_idx, false);
        pair.queue.disable_notifications();
        assert!(!pair.queue.enable_notifications());
        pair.driver.add(&pair.ram, &[buffer(1, true)]).unwrap();
        assert!(pair.driver.publish(&pair.ram), "idle: the driver kicks");
        pair.queue.disable_notifications();
        pair.serve();
        pair.driver.add(&pair.ram, &[buffer(1, true)]).unwrap();
        assert!(
            !pair.driver.publish(&pair.ram),
            "busy: the driver does not kick"
        );
        assert!(
            pair.queue.enable_notifications(),
            "what came meanwhile is seen"
        );
        pair.serve();
    }
}

#[test]
fn no_more_chains_are_out_than_the_ring_has_entries() {
    let mut pair = Pair::new(4, false, false);
    let head = pair.add(&[buffer(1, true)]);
    assert_eq!(pair.pop(), Ok(Popped::Chain));
    // A hostile driver offers the same head again and again.
    for _ in 0..3 {
        pair.driver.offer(&pair.ram, head);
        pair.driver.publish(&pair.ram);
        assert_eq!(pair.pop(), Ok(Popped::Chain));
    }
    pair.driver.offer(&pair.ram, head);
    pair.driver.publish(&pair.ram);
    assert_eq!(pair.pop(), Ok(Popped::Full));
    pair.queue.push_used(head, 0);
    assert_eq!(pair.pop(), Ok(Popped::Chain));
}

#[test]
fn malformed_chains_break_the_queue() {
    let far = Buffer {
        address: u64::MAX - 3,
        len: 8,
        writable: false,
    };
    let table = |len| Buffer {
        address: RAM_START + 0x9_0000,
        len,
        writable: false,
    };
    // (descriptor 0, its flags, its next, reason)
    let cases = [
        (buffer(1, false), NEXT, 4, "descriptor index out of range"),
        (buffer(1, false), NEXT, 0, "descriptor chain is a loop"),
        (far, 0, 0, "buffer outside of the guest's memory"),
        (
            buffer(1 << 20, true),
            0,
            0,
            "buffer outside of the guest's memory",
        ),
        (
            table(15),
            INDIRECT,
            0,
            "indirect table is not made of descriptors",
        ),
        (
            table(0),
            INDIRECT,
            0,
            "indirect table is not made of descriptors",
        ),
        (
            table(16),
            INDIRECT | NEXT,
            0,
            "indirect descriptor where none is allowed",
        ),
        (
            Buffer { len: 16, ..far },
            INDIRECT,
            0,
            "indirect table outside of the guest's memory",
        ),
    ];
    for (descriptor, flags, next, reason) in cases {
        let mut pair = Pair::new(4, false, true);
        pair.driver
            .set_descriptor(&pair.ram, 0, descriptor, flags, next);
        pair.driver.offer(&pair.ram, 0);
        pair.driver.publish(&pair.ram);
        assert_eq!(pair.pop(), Err(Broken(reason)));
    }
}

#[test]
fn malformed_tables_break_the_queue() {
    // (flags and next of the entries, reason)
    let cases: [(&[(u16, u16)], &str); 3] = [
        (
            &[(NEXT, 1), (NEXT, 0)],
            "indirect chain is a loop or too long",
        ),
        (
            &[(NEXT, 2), (0, 0)],
            "descriptor index beyond the indirect table",
        ),
        (
            &[(INDIRECT, 0), (0, 0)],
            "indirect table in an indirect table",
        ),
    ];
    for (entries, reason) in cases {
        let mut pair = Pair::new(4, false, true);
        let head = pair
            .driver
            .add(&pair.ram, &[buffer(1, false), buffer(1, false)]);
        let table = pair
            .ram
            .read(pair.driver.descriptors + 16 * u64::from(head.unwrap()), 8);
        let table = u64::from_le_bytes(table.try_into().unwrap());
        for (at, &(flags, next)) in (0..).zip(entries) {
            pair.ram.write(table + 16 * at + 12, &flags.to_le_bytes());
            pair.ram.write(table + 16 * at + 14, &next.to_le_bytes());
        }
        pair.driver.publish(&pair.ram);
        assert_eq!(pair.pop(), Err(Broken(reason)));
    }
}

#[test]
fn readable_after_writable_and_jumping_indices_break_the_queue() {
    let mut pair = Pair::new(4, false, false);
    pair.add(&[buffer(1, true), buffer(1, false)]);
    let reason = "readable descriptor after a writable one";
    assert_eq!(pair.pop(), Err(Broken(reason)));
    let mut jumping = Pair::new(4, false, false);
    jumping.driver.avail_index = 5;
    jumping.driver.publish(&jumping.ram);
    let jumped = "available index jumped by more than the queue size";
    assert_eq!(jumping.pop(), Err(Broken(jumped)));
}

#[test]
fn rings_must_be_aligned_inside_memory_and_a_power_of_two() {
    let mut ram = Ram::new(1 << 20);
    let driver = Driver::new(&mut ram, 8, false, false);
    let end = RAM_START + ram.size();
    let good = || setup(&ram, &driver, 0);
    assert!(Virtqueue::new(&good()).is_ok());
    let bad = [
        QueueSetup { size: 0, ..good() },
        QueueSetup { size: 6, ..good() },
        QueueSetup {
            descriptors: driver.descriptors + 8,
            ..good()
        },
        QueueSetup {
            descriptors: end - 64,
            ..good()
        },
        QueueSetup {
            available: driver.available + 1,
            ..good()
        },
        QueueSetup {
            available: end - 20,
            ..good()
        },
        QueueSetup {
            used: driver.used + 2,
            ..good()
        },
        QueueSetup {
            used: end - 68,
            ..good()
        },
        QueueSetup {
            used: u64::MAX - 3,
            ..good()
        },
        QueueSetup {
            memory: GuestMemory::new(),
            ..good()
        },
    ];
    for setup in bad {
        let error = Virtqueue::new(&setup).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
}

#[test]
fn the_largest_queue_works() {
    let mut ram = Ram::new(4 << 20);
    let driver = Driver::new(&mut ram, SIZE_MAX, true, false);
    let mut pair = Pair {
        queue: Virtqueue::new(&setup(&ram, &driver, F_EVENT_IDX)).unwrap(),
        ram,
        driver,
        last: Seen::default(),
    };
    for _ in 0..SIZE_MAX {
        pair.driver.add(&pair.ram, &[buffer(1, true)]).unwrap();
    }
    pair.driver.publish(&pair.ram);
    (0..SIZE_MAX).for_each(|_| pair.serve());
    assert!(pair.queue.publish());
    assert_eq!(pair.pop(), Ok(Popped::Empty));
}

#[test]
fn random_rings_never_panic_and_always_end() {
    let mut random = Random(1);
    let mut broken = 0;
    for _ in 0..5000 {
        let mut pair = Pair::new(16, random.below(2) == 0, random.below(2) == 0);
        let areas = pair.driver.used - RAM_START + 200;
        let mut noise = vec![0; usize::try_from(areas).unwrap()];
        random.fill(&mut noise);
        // Some small numbers, so that not everything is out of range at once.
        for byte in noise.iter_mut().step_by(3) {
            *byte &= 7;
        }
        pair.ram.write(RAM_START, &noise);
        pair.driver.avail_index = u16::try_from(random.below(17)).unwrap();
        pair.driver.publish(&pair.ram);
        for _ in 0..100 {
            match pair.pop() {
                Ok(Popped::Chain) => pair.queue.push_used(pair.last.head, 1),
                Ok(_) => break,
                Err(_) => {
                    broken += 1;
                    break;
                }
            }
        }
        pair.queue.publish();
    }
    assert!(
        broken > 1000,
        "the noise should break many queues, it broke {broken}"
    );
}
