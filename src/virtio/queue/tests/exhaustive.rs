//! The arithmetic of indices and the walk through descriptors, for all small rings there are, against references that are
//! too simple to be wrong.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::*;
use support::mock_driver::WRITE;

/// Starts around each place where an index wraps: 16 bits, and the sign bit for good measure.
fn wrapping_starts() -> impl Iterator<Item = u16> {
    let around =
        |middle: u16| (0..20).map(move |step: u16| middle.wrapping_sub(10).wrapping_add(step));
    around(0).chain(around(0x8000))
}

#[test]
fn an_event_is_passed_exactly_when_it_is_among_the_indices_of_the_batch() {
    for old in wrapping_starts() {
        for batch in 0..=9 {
            let new = old.wrapping_add(batch);
            let passed = |event| (0..batch).any(|step| old.wrapping_add(step) == event);
            for event in 0..=u16::MAX {
                assert_eq!(
                    event_passed(event, new, old),
                    passed(event),
                    "{event} {new} {old}"
                );
            }
        }
    }
}

/// A ring in memory, written word by word.
struct Bare {
    ram: Ram,
    driver: Driver,
    memory: GuestMemory,
}

impl Bare {
    fn new(size: u16) -> Bare {
        let mut ram = Ram::new(1 << 20);
        let driver = Driver::new(&mut ram, size, false, false);
        let bare = Bare {
            memory: setup(&ram, &driver, 0).memory,
            ram,
            driver,
        };
        for index in 0..size {
            bare.describe(bare.driver.descriptors, index, 0, 0);
        }
        bare
    }

    /// Descriptor `index` of a table. Its buffer is one byte at a place that tells which descriptor it is.
    fn describe(&self, table: u64, index: u16, flags: u16, next: u16) {
        let mut bytes = (BYTES + u64::from(index)).to_le_bytes().to_vec();
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.ram.write(table + 16 * u64::from(index), &bytes);
    }

    /// A device's side that begins at these indices.
    fn queue(&self, next_avail: u16, used: u16, features: u64) -> Virtqueue {
        self.set_available(next_avail);
        self.ram.write(self.driver.used + 2, &used.to_le_bytes());
        let setup = QueueSetup {
            size: self.driver.size,
            descriptors: self.driver.descriptors,
            available: self.driver.available,
            used: self.driver.used,
            next_avail,
            features,
            memory: self.memory.clone(),
            kick: None,
            call: None,
            err: None,
        };
        Virtqueue::new(&setup).unwrap()
    }

    fn set_available(&self, index: u16) {
        self.ram
            .write(self.driver.available + 2, &index.to_le_bytes());
    }

    fn set_head(&self, index: u16, head: u16) {
        let slot = u64::from(index % self.driver.size);
        self.ram
            .write(self.driver.available + 4 + 2 * slot, &head.to_le_bytes());
    }

    /// The head in the used ring at this index.
    fn used_head(&self, index: u16) -> u16 {
        let slot = u64::from(index % self.driver.size);
        let bytes = self.ram.read(self.driver.used + 4 + 8 * slot, 2);
        u16::from_le_bytes(bytes.try_into().unwrap())
    }
}

/// Where the buffers are.
const BYTES: u64 = RAM_START + 0x8_0000;
/// Where an indirect table is.
const TABLE: u64 = RAM_START + 0x9_0000;

#[test]
fn every_start_index_takes_and_gives_a_whole_ring() {
    for size in [1, 2, 4, 8] {
        let bare = Bare::new(size);
        for start in 0..=u16::MAX {
            let used = start.wrapping_mul(3);
            let mut queue = bare.queue(start, used, 0);
            for step in 0..size {
                bare.set_head(start.wrapping_add(step), size - 1 - step);
            }
            bare.set_available(start.wrapping_add(size));
            let mut chain = Chain::new(&bare.memory, ChainRoom::default());
            for step in 0..size {
                assert_eq!(queue.pop(&mut chain), Ok(Popped::Chain));
                assert_eq!(chain.head(), size - 1 - step);
                queue.push_used(chain.head(), 1);
            }
            assert_eq!(queue.pop(&mut chain), Ok(Popped::Empty));
            queue.publish();
            assert_eq!(queue.next_avail(), start.wrapping_add(size));
            assert_eq!(bare.driver.used_index(&bare.ram), used.wrapping_add(size));
            let heads = (0..size).map(|step| bare.used_head(used.wrapping_add(step)));
            assert!(heads.eq((0..size).rev()), "size {size}, start {start}");
        }
    }
}

#[test]
fn every_jump_of_the_available_index_beyond_the_ring_is_refused() {
    for size in [1, 2, 4, 8] {
        let bare = Bare::new(size);
        for start in [0, 1, 0x7fff, u16::MAX] {
            for jump in 0..=u16::MAX {
                let mut queue = bare.queue(start, 0, 0);
                bare.set_available(start.wrapping_add(jump));
                let mut chain = Chain::new(&bare.memory, ChainRoom::default());
                let popped = queue.pop(&mut chain);
                match jump {
                    0 => assert_eq!(popped, Ok(Popped::Empty)),
                    _ if jump <= size => assert_eq!(popped, Ok(Popped::Chain)),
                    _ => assert!(popped.is_err(), "{jump} from {start}"),
                }
            }
        }
    }
}

/// What a ring is about: chains that wait, chains that are out, chains that came back.
#[derive(Debug, Default)]
struct RingModel {
    waiting: VecDeque<u16>,
    out: VecDeque<u16>,
    back: Vec<u16>,
    shown: usize,
}

/// What the two sides of a ring may do.
#[derive(Clone, Copy, Debug)]
enum Act {
    Offer,
    Pop,
    FinishOldest,
    FinishNewest,
    Publish,
}

const ACTS: [Act; 5] = [
    Act::Offer,
    Act::Pop,
    Act::FinishOldest,
    Act::FinishNewest,
    Act::Publish,
];

/// Runs a sequence of acts on a ring and on the model, comparing after each.
fn follow(bare: &Bare, start: u16, acts: &[Act]) {
    let size = bare.driver.size;
    let mut queue = bare.queue(start, start, 0);
    let mut model = RingModel::default();
    let (mut offered, mut chain) = (start, Chain::new(&bare.memory, ChainRoom::default()));
    for act in acts {
        match act {
            // More than the ring has room for is another test.
            Act::Offer if model.waiting.len() == usize::from(size) => {}
            Act::Offer => {
                let head = offered % size;
                bare.set_head(offered, head);
                offered = offered.wrapping_add(1);
                bare.set_available(offered);
                model.waiting.push_back(head);
            }
            Act::Pop => {
                let popped = queue.pop(&mut chain).unwrap();
                match (popped, model.waiting.front()) {
                    (Popped::Empty, None) => {}
                    (Popped::Full, Some(_)) => assert_eq!(model.out.len(), usize::from(size)),
                    (Popped::Chain, Some(&head)) => {
                        assert_eq!(chain.head(), head);
                        model.waiting.pop_front();
                        model.out.push_back(head);
                    }
                    other => panic!("{other:?} after {acts:?}"),
                }
            }
            Act::FinishOldest | Act::FinishNewest => {
                let finished = match act {
                    Act::FinishOldest => model.out.pop_front(),
                    _ => model.out.pop_back(),
                };
                if let Some(head) = finished {
                    queue.push_used(head, 0);
                    model.back.push(head);
                }
            }
            Act::Publish => {
                assert_eq!(queue.publish(), model.shown < model.back.len());
                model.shown = model.back.len();
            }
        }
        assert_eq!(usize::from(queue.in_flight()), model.out.len());
        assert_eq!(queue.has_available(), !model.waiting.is_empty());
        assert_eq!(queue.has_finished(), model.shown < model.back.len());
        let shown = u16::try_from(model.shown).unwrap();
        assert_eq!(bare.driver.used_index(&bare.ram), start.wrapping_add(shown));
    }
    let last = model.back.len().saturating_sub(usize::from(size));
    for (at, head) in (0..).zip(&model.back).skip(last) {
        assert_eq!(bare.used_head(start.wrapping_add(at)), *head, "{acts:?}");
    }
}

#[test]
fn every_short_history_of_a_small_ring_is_that_of_the_model() {
    const LENGTH: u32 = 7;
    for size in [1, 2] {
        let bare = Bare::new(size);
        for start in [0, 65_535, 65_534] {
            for number in 0..5_usize.pow(LENGTH) {
                let act = |place: u32| ACTS[number / 5_usize.pow(place) % 5];
                let acts: Vec<Act> = (0..LENGTH).map(act).collect();
                follow(&bare, start, &acts);
            }
        }
    }
}

/// A descriptor without its buffer.
type Link = (u16, u16);

/// All links of a table of `size` entries; `next` may point just beyond it.
fn links(size: u16) -> Vec<Link> {
    let ends = [0, WRITE].map(|flags| (flags, 0));
    let goes_on = (0..=size).flat_map(|next| [(NEXT, next), (NEXT | WRITE, next)]);
    ends.into_iter().chain(goes_on).collect()
}

/// All tables of `size` of these links.
fn tables(links: &[Link], size: u16) -> impl Iterator<Item = Vec<Link>> {
    let count = links.len().pow(size.into());
    (0..count).map(move |number| {
        let link = |place: u16| links[number / links.len().pow(place.into()) % links.len()];
        (0..size).map(link).collect()
    })
}

/// The chain from `head`: which descriptors are read, then which are written; `None` if it is not a chain.
fn reference(table: &[Link], head: u16) -> Option<(Vec<u16>, Vec<u16>)> {
    let (mut readable, mut writable) = (Vec::new(), Vec::new());
    let mut index = head;
    loop {
        let &(flags, next) = table.get(usize::from(index))?;
        if readable.contains(&index) || writable.contains(&index) {
            return None;
        }
        match flags & WRITE != 0 {
            true => writable.push(index),
            false if writable.is_empty() => readable.push(index),
            false => return None,
        }
        if flags & NEXT == 0 {
            return Some((readable, writable));
        }
        index = next;
    }
}

/// The descriptors of a chain by their buffers.
fn descriptors(bare: &Bare, slices: &[GuestSlice<'_>]) -> Vec<u16> {
    let base = bare.memory.contiguous(BYTES, 1).unwrap().as_ptr().addr();
    let index = |slice: &GuestSlice<'_>| u16::try_from(slice.as_ptr().addr() - base).unwrap();
    slices.iter().map(index).collect()
}

/// Pops the chain with that head from a fresh queue; as [`reference`].
fn walked(bare: &Bare, head: u16, features: u64) -> Option<(Vec<u16>, Vec<u16>)> {
    let mut queue = bare.queue(0, 0, features);
    bare.set_head(0, head);
    bare.set_available(1);
    let mut chain = Chain::new(&bare.memory, ChainRoom::default());
    assert_eq!(queue.pop(&mut chain).ok()?, Popped::Chain);
    assert_eq!(chain.writable_len(), chain.writable().len() as u64);
    let [readable, writable] =
        [chain.readable(), chain.writable()].map(|slices| descriptors(bare, slices));
    Some((readable, writable))
}

#[test]
fn every_small_descriptor_table_is_walked_as_the_reference_walks_it() {
    for size in [1, 2, 4] {
        let bare = Bare::new(size);
        for table in tables(&links(size), size) {
            for (index, &(flags, next)) in (0..).zip(&table) {
                bare.describe(bare.driver.descriptors, index, flags, next);
            }
            for head in 0..=size {
                let (walked, expected) = (walked(&bare, head, 0), reference(&table, head));
                assert_eq!(walked, expected, "head {head} of {table:?}");
            }
        }
    }
}

#[test]
fn every_small_indirect_table_is_walked_as_the_reference_walks_it() {
    let bare = Bare::new(1);
    for size in 1..=3 {
        let mut links = links(size);
        links.push((INDIRECT, 0));
        let whole = Buffer {
            address: TABLE,
            len: 16 * u32::from(size),
            writable: false,
        };
        bare.driver.set_descriptor(&bare.ram, 0, whole, INDIRECT, 0);
        for table in tables(&links, size) {
            for (index, &(flags, next)) in (0..).zip(&table) {
                bare.describe(TABLE, index, flags, next);
            }
            let nested = |index: &u16| table[usize::from(*index)].0 == INDIRECT;
            let expected =
                reference(&table, 0).filter(|(readable, _)| !readable.iter().any(nested));
            assert_eq!(walked(&bare, 0, F_INDIRECT_DESC), expected, "{table:?}");
            assert_eq!(walked(&bare, 0, 0), None, "without the feature");
        }
    }
}
