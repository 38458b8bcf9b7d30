//! What the process holds: fds, threads, memory.
#![allow(unsafe_code)] // a counting allocator

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

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

/// A pool leaves its workers to end by themselves, which takes them a moment.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until the process has no more than so many threads: its first, and the test's.
pub fn settle(threads: usize) {
    let begin = Instant::now();
    while entries("/proc/self/task") > threads && begin.elapsed() < PATIENCE {
        std::thread::yield_now();
    }
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

    /// Nothing has been left since then.
    pub fn check(&self) {
        settle(self.threads);
        let now = Held::now();
        let (blocks, bytes) = (now.blocks - self.blocks, now.bytes - self.bytes);
        println!("left: {blocks} blocks, {bytes} bytes");
        assert_eq!(now.fds, self.fds, "open fds");
        assert_eq!(now.threads, self.threads, "threads");
        assert!(blocks < BLOCKS_KEPT, "{blocks} blocks of memory are left");
        assert!(bytes < BYTES_KEPT, "{bytes} bytes of memory are left");
    }
}
