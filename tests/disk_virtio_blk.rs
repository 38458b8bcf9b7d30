//! The virtio disk as a guest sees it: a mock driver over memfd memory, every engine, and what each request answers.
#![allow(unsafe_code)] // eventfds and cachestat
#![cfg(feature = "vhost-user")]
#![allow(clippy::unwrap_used)] // a test program

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use support::disk_model::compare_with_model;
use support::driven_disk::{
    DISCARD, Disk, FLUSH, GET_ID, IN, Image, Medium, OUT, STORES, Shape, WRITE_ZEROES, open_node,
    try_open,
};
use support::random::Random;
use support::skip::skip;

#[test]
fn random_data_at_every_depth_matches_the_model_on_every_store() {
    for (number, (medium, options)) in STORES.into_iter().enumerate() {
        let mut model = vec![0; 2 << 20];
        Random(number as u64).fill(&mut model);
        let image = Image::new(medium, &model);
        let Some(node) = try_open(&image, options) else {
            continue;
        };
        for (depth, event_idx, indirect) in [
            (1, false, false),
            (7, true, false),
            (32, false, true),
            (128, true, true),
        ] {
            let shape = Shape {
                size: 1024,
                slots: 128,
                event_idx,
                indirect,
                ..Shape::default()
            };
            let mut disk = Disk::new(Arc::clone(&node), shape);
            let count = compare_with_model(&mut disk, &mut model, depth, 100 + 4 * depth);
            assert_eq!(disk.request((FLUSH, 0), &[], 0).status, 0);
            disk.stop(0);
            let stats = disk.blk.stats(0);
            assert_eq!(
                (stats.reads + stats.writes, stats.flushes),
                (count as u64, 1)
            );
            assert_eq!(stats.errors, 0);
            disk.iterate(4);
        }
        assert!(
            std::fs::read(image.path()).unwrap() == model,
            "{medium:?} {options}"
        );
    }
}

#[test]
fn requests_answer_with_the_right_status() {
    let image = Image::new(Medium::Memory, &[1; 64 * 1024]);
    let mut disk = Disk::new(try_open(&image, "aio=threads").unwrap(), Shape::default());
    let range = |sector: u64, count: u32, flags: u32| {
        let mut bytes = sector.to_le_bytes().to_vec();
        bytes.extend(count.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes
    };
    let cases: [(u32, u64, Vec<u8>, usize, u8); 20] = [
        (IN, 0, vec![], 512, 0),
        (IN, 127, vec![], 512, 0),
        (IN, 128, vec![], 512, 1),
        (IN, 127, vec![], 1024, 1),
        (IN, u64::MAX, vec![], 512, 1),
        (IN, u64::MAX / 512, vec![], 512, 1),
        (IN, 0, vec![], 511, 1),
        (IN, 0, vec![], 0, 0),
        (OUT, 0, vec![2; 512], 0, 0),
        (OUT, 127, vec![2; 1024], 0, 1),
        (OUT, 0, vec![2; 100], 0, 1),
        (FLUSH, 0, vec![], 0, 0),
        (DISCARD, 0, range(8, 8, 0), 0, 0),
        (DISCARD, 0, range(8, 8, 1), 0, 2),
        (DISCARD, 0, range(127, 8, 0), 0, 1),
        (DISCARD, 0, vec![0; 15], 0, 1),
        (DISCARD, 0, [range(8, 8, 0), range(16, 8, 0)].concat(), 0, 2),
        (WRITE_ZEROES, 0, range(16, 8, 1), 0, 0),
        (WRITE_ZEROES, 0, range(24, 1, 0), 0, 0),
        (99, 0, vec![], 0, 2),
    ];
    for (kind, sector, out, writable, status) in cases {
        let done = disk.request((kind, sector), &out, writable);
        assert_eq!(done.status, status, "{kind} {sector} {out:?} {writable}");
        let data = if status == 0 { writable } else { 0 };
        assert_eq!(done.written as usize, data + 1, "{kind} {sector}");
    }
    let bytes = std::fs::read(image.path()).unwrap();
    assert_eq!(bytes[..512], [2; 512]);
    assert!(
        bytes[8 * 512..16 * 512].iter().all(|&byte| byte == 0),
        "discarded"
    );
    assert!(
        bytes[16 * 512..25 * 512].iter().all(|&byte| byte == 0),
        "zeroed"
    );
    assert_eq!(bytes[25 * 512], 1);
}

#[test]
fn zeroes_without_unmap_work_where_only_writing_is_left() {
    // tmpfs has no FALLOC_FL_ZERO_RANGE, other file systems do; both must zero exactly the range.
    for (medium, options) in [
        (Medium::Memory, "aio=io_uring"),
        (Medium::Memory, "aio=threads"),
        (Medium::Disk, "cache=none"),
    ] {
        let image = Image::new(medium, &vec![7; 4 << 20]);
        let Some(node) = try_open(&image, options) else {
            continue;
        };
        let mut disk = Disk::new(node, Shape::default());
        let mut range = 8_u64.to_le_bytes().to_vec();
        range.extend(6000_u32.to_le_bytes());
        range.extend([0; 4]);
        assert_eq!(disk.request((WRITE_ZEROES, 0), &range, 0).status, 0);
        let bytes = std::fs::read(image.path()).unwrap();
        let zero = 8 * 512..6008 * 512;
        assert!(bytes[zero.clone()].iter().all(|&byte| byte == 0));
        assert!(
            bytes[..zero.start]
                .iter()
                .chain(&bytes[zero.end..])
                .all(|&byte| byte == 7)
        );
    }
}

#[test]
fn the_id_is_twenty_bytes_however_much_room_there_is() {
    let mut disk = Disk::new(open_node("driver=null-co").unwrap(), Shape::default());
    for room in [20, 5, 64] {
        let done = disk.request((GET_ID, 0), &[], room);
        assert_eq!(done.status, 0);
        let text = &b"serial-0123\0\0\0\0\0\0\0\0\0"[..room.min(20)];
        assert_eq!(&done.data[..text.len()], text);
    }
}

#[test]
fn the_used_length_counts_the_bytes_that_were_written() {
    let image = Image::new(Medium::Memory, &[1; 4096]);
    let mut disk = Disk::new(try_open(&image, "aio=threads").unwrap(), Shape::default());
    let range = [0; 16];
    // What is asked for, what the device reads, how much it may write besides the status, how much it writes.
    let cases: [(u32, u64, &[u8], usize, u32); 11] = [
        (IN, 0, &[], 512, 513),
        (IN, 0, &[], 0, 1),
        (IN, 8, &[], 512, 1),
        (IN, 0, &[], 511, 1),
        (OUT, 0, &[2; 512], 100, 1),
        (FLUSH, 0, &[], 100, 1),
        (WRITE_ZEROES, 0, &range, 100, 1),
        (GET_ID, 0, &[], 20, 21),
        (GET_ID, 0, &[], 5, 6),
        (GET_ID, 0, &[], 64, 21),
        (99, 0, &[], 100, 1),
    ];
    for (kind, sector, out, room, written) in cases {
        let done = disk.request((kind, sector), out, room);
        assert_eq!(done.written, written, "{kind} {sector} {room}");
    }
}

#[test]
fn a_read_only_disk_refuses_to_change() {
    let image = Image::new(Medium::Memory, &[3; 4096]);
    let mut disk = Disk::new(try_open(&image, "readonly=on").unwrap(), Shape::default());
    assert_eq!(disk.request((OUT, 0), &[1; 512], 0).status, 1);
    assert_eq!(disk.request((IN, 0), &[], 512).data, [3; 512]);
    assert_eq!(disk.request((FLUSH, 0), &[], 0).status, 0);
    assert_eq!(std::fs::read(image.path()).unwrap(), [3; 4096]);
}

#[test]
fn disks_that_only_read_share_a_node() {
    let image = Image::new(Medium::Memory, &[7; 4096]);
    let node = try_open(&image, "readonly=on").unwrap();
    let disks = [(); 2].map(|()| Disk::new(Arc::clone(&node), Shape::default()));
    assert_eq!(node.parents().len(), 2);
    for mut disk in disks {
        let done = disk.request((IN, 0), &[], 4096);
        assert_eq!((done.status, done.data == [7; 4096]), (0, true));
    }
}

#[test]
fn an_odd_image_reads_zeroes_behind_its_end() {
    for options in ["aio=io_uring", "aio=threads"] {
        let image = Image::new(Medium::Disk, &[5; 1000]);
        let Some(node) = try_open(&image, options) else {
            continue;
        };
        let mut disk = Disk::new(node, Shape::default());
        let done = disk.request((IN, 0), &[], 1024);
        assert_eq!(done.status, 0);
        assert_eq!(
            (done.data[999], done.data[1000], done.data[1023]),
            (5, 0, 0)
        );
    }
}

#[test]
fn a_flush_leaves_no_dirty_page_in_the_cache() {
    let image = Image::new(Medium::Disk, &vec![0; 1 << 20]);
    for options in ["aio=io_uring", "aio=threads"] {
        let Some(node) = try_open(&image, options) else {
            continue;
        };
        let mut disk = Disk::new(Arc::clone(&node), Shape::default());
        let file = std::fs::File::open(image.path()).unwrap();
        assert_eq!(disk.request((OUT, 8), &[9; 65536], 0).status, 0);
        let Some(dirty) = dirty_pages(&file) else {
            return skip("this kernel has no cachestat");
        };
        assert!(dirty >= 1, "the write should still be in the page cache");
        let syncs = node.data_syncs();
        assert_eq!(disk.request((FLUSH, 0), &[], 0).status, 0);
        assert_eq!(dirty_pages(&file), Some(0));
        assert_eq!(node.data_syncs(), syncs + 1);
        disk.stop(0);
        drop(node);
        disk.close();
    }
}

/// How many pages of `file` wait to be written, if the kernel tells.
fn dirty_pages(file: &std::fs::File) -> Option<u64> {
    const CACHESTAT: i64 = 451;
    let range = [0_u64, 0];
    let mut stat = [0_u64; 5];
    // SAFETY: both buffers have the kernel's layout: two and five 64-bit numbers.
    let result = unsafe {
        libc::syscall(
            CACHESTAT,
            file.as_raw_fd(),
            range.as_ptr(),
            stat.as_mut_ptr(),
            0,
        )
    };
    (result == 0).then(|| stat[1] + stat[2])
}

#[test]
fn long_misaligned_requests_go_through_bounce_buffers() {
    const LEN: usize = 300 * 1024;
    for options in ["aio=io_uring,cache=none", "aio=threads,cache=none"] {
        let mut model = vec![0; 48 * LEN];
        Random(5).fill(&mut model);
        let image = Image::new(Medium::Disk, &model);
        let shape = Shape {
            slots: 48,
            ..Shape::default()
        };
        let Some(node) = try_open(&image, options) else {
            continue;
        };
        let mut disk = Disk::new(node, shape);
        let mut starts = BTreeMap::new();
        for number in 0..48 {
            let start = number * LEN;
            let sector = (start / 512) as u64;
            // Three pieces at random borders are practically never aligned.
            let head = if number % 2 == 0 {
                disk.put(0, (IN, sector), &[], LEN, 3)
            } else {
                disk.random.fill(&mut model[start..start + LEN]);
                disk.put(0, (OUT, sector), &model[start..start + LEN], 0, 3)
            };
            starts.insert(head, start);
        }
        disk.kick(0);
        disk.wait(|disk| {
            while let Some((head, done)) = disk.take_done(0) {
                let start = starts.remove(&head).unwrap();
                assert_eq!(done.status, 0);
                assert!(done.data == model[start..start + done.data.len()]);
            }
            starts.is_empty()
        });
        assert!(std::fs::read(image.path()).unwrap() == model, "{options}");
    }
}
