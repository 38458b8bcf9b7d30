//! The queue by itself.
#![allow(unsafe_code)] // nodes are raw pointers

use super::{Chained, HomeQueue, QueueLock};
use crate::sync::AtomicPtr;
use std::ptr;

struct Node {
    number: u32,
    next: AtomicPtr<Node>,
}

// SAFETY: the field never changes place.
unsafe impl Chained for Node {
    fn next(&self) -> &AtomicPtr<Node> {
        &self.next
    }
}

fn queue_of(numbers: &[u32]) -> HomeQueue<Node> {
    let queue = HomeQueue::new();
    for &number in numbers {
        let node = Box::new(Node {
            number,
            next: AtomicPtr::new(ptr::null_mut()),
        });
        // SAFETY: a fresh node, and one thread.
        unsafe { queue.push(Box::into_raw(node)) };
    }
    queue
}

fn numbers(queue: &HomeQueue<Node>) -> Vec<u32> {
    let mut numbers = Vec::new();
    loop {
        // SAFETY: one thread.
        let node = unsafe { queue.pop() };
        if node.is_null() {
            return numbers;
        }
        // SAFETY: it came from a box and was just taken out.
        numbers.push(unsafe { Box::from_raw(node) }.number);
    }
}

#[test]
fn first_in_first_out() {
    let queue = queue_of(&[1, 2, 3]);
    assert_eq!(numbers(&queue), [1, 2, 3]);
    assert!(queue.is_empty());
}

#[test]
fn appending_empties_the_later_one() {
    for early in [&[][..], &[1], &[1, 2]] {
        for late in [&[][..], &[3], &[3, 4]] {
            let (queue, later) = (queue_of(early), queue_of(late));
            // SAFETY: one thread.
            unsafe { queue.append(&later) };
            assert!(later.is_empty());
            assert_eq!(numbers(&queue), [early, late].concat());
        }
    }
}

#[test]
fn extracting_keeps_both_orders() {
    let (queue, other) = (queue_of(&[1, 2, 3, 4, 5]), queue_of(&[9]));
    // SAFETY: one thread.
    unsafe { queue.extract(&other, |node| node.number % 2 == 0) };
    assert_eq!(numbers(&queue), [1, 3, 5]);
    assert_eq!(numbers(&other), [9, 2, 4]);
}

#[test]
fn a_change_excludes_another_until_it_ends() {
    let lock = QueueLock::new();
    let held = lock.try_begin();
    assert!(held.is_some());
    assert!(lock.try_begin().is_none());
    drop(held);
    assert!(lock.try_begin().is_some());
}
