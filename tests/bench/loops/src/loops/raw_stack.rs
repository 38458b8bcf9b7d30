//! A bare lock-free list: any thread pushes, one takes all, in the order of the pushes.
#![allow(unsafe_code)] // nodes are raw pointers

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::event_loop::receive;

pub(crate) struct Node {
    next: *mut Node,
    call: fn(u64),
    number: u64,
}

#[derive(Default)]
pub(crate) struct Stack(AtomicPtr<Node>);

impl Stack {
    pub(crate) fn push(&self, number: u64) {
        let node = Box::into_raw(Box::new(Node {
            next: ptr::null_mut(),
            call: receive,
            number,
        }));
        let mut head = self.0.load(Ordering::Relaxed);
        loop {
            // SAFETY: the node is ours until it is in the list.
            unsafe { (*node).next = head };
            match self
                .0
                .compare_exchange_weak(head, node, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.load(Ordering::SeqCst).is_null()
    }

    /// Runs and frees what has been pushed.
    pub(crate) fn run_all(&self) {
        let mut node = reversed(self.0.swap(ptr::null_mut(), Ordering::Acquire));
        while !node.is_null() {
            // SAFETY: the node came from a box and has been taken from the list.
            let taken = unsafe { Box::from_raw(node) };
            node = taken.next;
            (taken.call)(taken.number);
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.run_all();
    }
}

fn reversed(mut node: *mut Node) -> *mut Node {
    let mut list = ptr::null_mut();
    while !node.is_null() {
        // SAFETY: the nodes have been taken from the list, no other thread has them.
        let next = unsafe { std::mem::replace(&mut (*node).next, list) };
        list = node;
        node = next;
    }
    list
}
