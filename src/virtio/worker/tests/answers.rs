//! Chains that are kept, and what a model may do wrong with them.
#![forbid(unsafe_code)]

use super::super::patient::Driver;
use super::{Answers, Tag};
use crate::virtio::memory::GuestMemory;
use crate::virtio::queue::{Chain, ChainRoom, Virtqueue};

/// A driver that has put `count` chains, and the device's side of its queue.
fn answers(count: usize) -> (Driver, GuestMemory, Answers) {
    let mut driver = Driver::new(1, false);
    (0..count).for_each(|_| driver.put(0));
    let virtqueue = Virtqueue::new(&driver.setup(0, 0)).unwrap();
    let memory = virtqueue.memory().clone();
    (driver, memory, Answers::new(virtqueue))
}

fn keep_next(answers: &mut Answers, memory: &GuestMemory) -> Tag {
    let mut chain = Chain::new(memory, ChainRoom::default());
    answers.virtqueue.pop(&mut chain).unwrap();
    answers.keep(&chain)
}

#[test]
fn tags_are_used_again_and_chains_completed_in_any_order() {
    let (mut driver, memory, mut answers) = answers(6);
    let [first, second, third] = [(); 3].map(|()| keep_next(&mut answers, &memory));
    answers.complete(second, 1);
    answers.complete(first, 2);
    let again = [(); 3].map(|()| keep_next(&mut answers, &memory));
    assert_eq!(again[..2], [first, second]);
    for tag in [third, again[0], again[1], again[2]] {
        assert!(answers.has_kept());
        answers.complete_with_status(tag, 4, 3);
    }
    assert!(!answers.has_kept());
    answers.virtqueue.publish();
    let ring = &mut driver.rings[0];
    let used = std::iter::from_fn(|| ring.take_used(&driver.ram)).map(|(_, written)| written);
    assert_eq!(used.collect::<Vec<_>>(), [1, 2, 5, 5, 5, 5]);
}

#[test]
fn a_chain_is_completed_once() {
    let (mut driver, memory, mut answers) = answers(2);
    let tag = keep_next(&mut answers, &memory);
    answers.complete(tag, 1);
    answers.complete(tag, 1);
    answers.complete_with_status(tag, 0, 1);
    answers.complete(Tag::from(u64::MAX), 1);
    assert_eq!(answers.virtqueue.in_flight(), 0);
    answers.virtqueue.publish();
    assert_eq!(driver.take_used(0), 1);
    assert_eq!(keep_next(&mut answers, &memory), tag);
}

#[test]
#[should_panic(expected = "answered by its own queue")]
fn a_chain_of_another_memory_is_not_kept() {
    let (_one, memory, _) = answers(1);
    let (_other, _, mut answers) = answers(1);
    keep_next(&mut answers, &memory);
}
