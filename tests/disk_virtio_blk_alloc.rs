//! The request path allocates nothing once it is warm.
#![allow(unsafe_code)] // a counting allocator
#![cfg(feature = "vhost-user")]
#![allow(clippy::unwrap_used)] // a test program

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use support::driven_disk::{Disk, IN, Image, Medium, OUT, Shape, open_node};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts the allocations of each thread.
struct Counting;

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(start, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs batches of 32 requests; returns the allocations made by the loop's iterations.
fn run_batches(disk: &mut Disk, kind: u32, batches: usize) -> u64 {
    let mut allocations = 0;
    for _ in 0..batches {
        for sector in 0..32 {
            match kind {
                IN => disk.put(0, (IN, sector * 8), &[], 4096, 1),
                _ => disk.put(0, (OUT, sector * 8), &[5; 4096], 0, 1),
            };
        }
        disk.kick(0);
        let mut finished = 0;
        while finished < 32 {
            let before = ALLOCATIONS.get();
            disk.iterate(1);
            allocations += ALLOCATIONS.get() - before;
            while disk.take_done(0).is_some() {
                finished += 1;
            }
        }
    }
    allocations
}

#[test]
fn warm_batches_are_free_of_allocations() {
    let image = Image::new(Medium::Memory, &vec![1; 1 << 20]);
    let nodes = [
        "driver=null-co,read-zeroes=on".to_owned(),
        format!("file={},format=raw", image.path()),
    ];
    for options in nodes {
        let shape = Shape {
            slots: 32,
            ..Shape::default()
        };
        let mut disk = Disk::new(open_node(&options).unwrap(), shape);
        for kind in [IN, OUT] {
            run_batches(&mut disk, kind, 10);
            let allocations = run_batches(&mut disk, kind, 100);
            assert_eq!(allocations, 0, "{options}, request type {kind}");
        }
    }
}

#[test]
fn queued_batches_allocate_per_batch_at_most_not_per_request() {
    let image = Image::new(Medium::Disk, &vec![1; 1 << 20]);
    for options in ["aio=io_uring,cache=none", "aio=threads,cache=none"] {
        let options = format!("file={},format=raw,locking=off,{options}", image.path());
        let shape = Shape {
            slots: 32,
            ..Shape::default()
        };
        let mut disk = Disk::new(open_node(&options).unwrap(), shape);
        run_batches(&mut disk, IN, 20);
        let allocations = run_batches(&mut disk, IN, 50);
        eprintln!("{options}: {allocations} allocations for 1600 requests");
        assert!(allocations < 1600, "{options}: {allocations}");
    }
}
