//! What the process holds: fds, threads, memory.
#![allow(unsafe_code)] // a counting allocator

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering};

static BLOCKS: AtomicI64 = AtomicI64::new(0);
static BYTES: AtomicI64 = AtomicI64::new(0);

/// Counts what is allocated.
struct Counting;

fn count(blocks: i64, layout: Layout) {
    let bytes = i64::try_from(layout.size()).expect("an allocation is smaller");
    BLOCKS.fetch_add(blocks, Ordering::Relaxed);
    BYTES.fetch_add(blocks * bytes, Ordering::Relaxed);
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        count(-1, layout);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(start, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// So many blocks may stay: tables that have grown, and places that std and GLib keep for threads.
const BLOCKS_KEPT: i64 = 500;
const BYTES_KEPT: i64 = 256 * 1024;

pub struct Held {
    fds: usize,
    threads: usize,
    blocks: i64,
    bytes: i64,
}

fn entries(directory: &str) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

impl Held {
    pub fn now() -> Held {
        Held {
            fds: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
            blocks: BLOCKS.load(Ordering::Relaxed),
            bytes: BYTES.load(Ordering::Relaxed),
        }
    }

    pub fn check_against(&self, before: &Held) {
        let (blocks, bytes) = (self.blocks - before.blocks, self.bytes - before.bytes);
        println!("left: {blocks} blocks, {bytes} bytes");
        assert_eq!(self.fds, before.fds, "open fds");
        assert_eq!(self.threads, before.threads, "threads");
        assert!(blocks < BLOCKS_KEPT, "{blocks} blocks of memory are left");
        assert!(bytes < BYTES_KEPT, "{bytes} bytes of memory are left");
    }
}
