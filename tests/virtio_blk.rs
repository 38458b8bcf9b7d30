//! The virtio disk as a guest sees it: a mock driver over memfd memory, every engine, friendly and hostile.
#![allow(unsafe_code)] // eventfds and cachestat
#![cfg(feature = "vhost-user")]
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)] // a test program

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use qcontext::virtio::Device;

#[path = "support/disk.rs"]
mod disk;
#[path = "support/mock_driver.rs"]
mod mock_driver;

use disk::{
    DISCARD, Disk, FLUSH, GET_ID, IN, Image, OUT, Shape, WRITE_ZEROES, eventfd, open_node, signal,
    take,
};
use mock_driver::{Buffer, RAM_START, Random};

const SHM: &str = "/dev/shm";
const DISK_DIR: &str = env!("CARGO_TARGET_TMPDIR");

/// Where data is kept, and how: directory and options.
const STORES: [(&str, &str); 6] = [
    (SHM, "aio=io_uring"),
    (SHM, "aio=threads"),
    (DISK_DIR, "aio=io_uring,cache=none"),
    (DISK_DIR, "aio=threads,cache=none"),
    (DISK_DIR, "aio=io_uring"),
    (DISK_DIR, "aio=threads,cache=directsync"),
];

fn open(image: &Image, options: &str) -> Arc<qcontext::block::Node> {
    open_node(&format!("file={},format=raw,{options}", image.path())).unwrap()
}

/// Random reads and writes at `depth` against a model; returns how many were done.
fn compare_with_model(disk: &mut Disk, model: &mut [u8], depth: usize, count: usize) -> usize {
    let unit = usize::try_from(disk.blk.node().block_size()).unwrap();
    let mut flying: BTreeMap<u16, (usize, usize, bool)> = BTreeMap::new();
    let mut put = 0;
    let mut done = 0;
    while done < count {
        while put < count && flying.len() < depth {
            let units = 1 + usize::try_from(disk.random.below(20)).unwrap();
            let len = units * unit;
            let places = (model.len() - len) / unit;
            let start = usize::try_from(disk.random.below(places as u64)).unwrap() * unit;
            let clash = flying
                .values()
                .any(|&(other, size, _)| start < other + size && other < start + len);
            if clash {
                break;
            }
            let write = disk.random.below(2) == 0;
            let pieces = 2 + disk.random.below(5);
            let sector = (start / 512) as u64;
            let head = if write {
                disk.random.fill(&mut model[start..start + len]);
                let data = model[start..start + len].to_vec();
                disk.put(0, (OUT, sector), &data, 0, pieces)
            } else {
                disk.put(0, (IN, sector), &[], len, pieces)
            };
            flying.insert(head, (start, len, write));
            put += 1;
        }
        disk.kick(0);
        disk.iterate(1);
        while let Some((head, finished)) = disk.take_done(0) {
            let (start, len, write) = flying.remove(&head).unwrap();
            assert_eq!(finished.status, 0, "{start}+{len} write={write}");
            if !write {
                assert_eq!(finished.written as usize, len + 1);
                assert!(
                    finished.data == model[start..start + len],
                    "wrong data at {start}+{len}"
                );
            }
            done += 1;
        }
    }
    done
}

#[test]
fn random_data_at_every_depth_matches_the_model_on_every_store() {
    for (number, (directory, options)) in STORES.into_iter().enumerate() {
        let mut model = vec![0; 2 << 20];
        Random(number as u64).fill(&mut model);
        let image = Image::new(directory, &model);
        let node = open(&image, options);
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
            std::fs::read(&image.0).unwrap() == model,
            "{directory} {options}"
        );
    }
}

#[test]
fn requests_answer_with_the_right_status() {
    let image = Image::new(SHM, &[1; 64 * 1024]);
    let mut disk = Disk::new(open(&image, "aio=threads"), Shape::default());
    let range = |sector: u64, count: u32, flags: u32| {
        let mut bytes = sector.to_le_bytes().to_vec();
        bytes.extend(count.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes
    };
    let cases: [(u32, u64, Vec<u8>, usize, u8); 19] = [
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
        (WRITE_ZEROES, 0, range(16, 8, 1), 0, 0),
        (WRITE_ZEROES, 0, range(24, 1, 0), 0, 0),
        (99, 0, vec![], 0, 2),
    ];
    for (kind, sector, out, writable, status) in cases {
        let done = disk.request((kind, sector), &out, writable);
        assert_eq!(done.status, status, "{kind} {sector} {out:?} {writable}");
        assert_eq!(done.written as usize, writable + 1);
    }
    let bytes = std::fs::read(&image.0).unwrap();
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
    for (directory, options) in [
        (SHM, "aio=io_uring"),
        (SHM, "aio=threads"),
        (DISK_DIR, "cache=none"),
    ] {
        let image = Image::new(directory, &vec![7; 4 << 20]);
        let mut disk = Disk::new(open(&image, options), Shape::default());
        let mut range = 8_u64.to_le_bytes().to_vec();
        range.extend(6000_u32.to_le_bytes());
        range.extend([0; 4]);
        assert_eq!(disk.request((WRITE_ZEROES, 0), &range, 0).status, 0);
        let bytes = std::fs::read(&image.0).unwrap();
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
fn a_read_only_disk_refuses_to_change() {
    let image = Image::new(SHM, &[3; 4096]);
    let mut disk = Disk::new(open(&image, "readonly=on"), Shape::default());
    assert_eq!(disk.request((OUT, 0), &[1; 512], 0).status, 1);
    assert_eq!(disk.request((IN, 0), &[], 512).data, [3; 512]);
    assert_eq!(disk.request((FLUSH, 0), &[], 0).status, 0);
    assert_eq!(std::fs::read(&image.0).unwrap(), [3; 4096]);
}

#[test]
fn an_odd_image_reads_zeroes_behind_its_end() {
    for options in ["aio=io_uring", "aio=threads"] {
        let image = Image::new(DISK_DIR, &[5; 1000]);
        let mut disk = Disk::new(open(&image, options), Shape::default());
        let done = disk.request((IN, 0), &[], 1024);
        assert_eq!(done.status, 0);
        assert_eq!(
            (done.data[999], done.data[1000], done.data[1023]),
            (5, 0, 0)
        );
    }
}

#[test]
fn a_batch_costs_one_kick_and_one_call() {
    let mut disk = Disk::new(open_node("driver=null-co").unwrap(), Shape::default());
    let before = disk.blk.stats(0);
    for sector in 0..16 {
        disk.put(0, (IN, sector), &[], 512, 1);
    }
    assert!(disk.kick(0));
    disk.iterate(1);
    let after = disk.blk.stats(0);
    assert_eq!(after.reads - before.reads, 16);
    assert_eq!(
        (after.kicks - before.kicks, after.calls - before.calls),
        (1, 1)
    );
    assert_eq!(take(&disk.clients[0].call), 1);
}

#[test]
fn a_flush_leaves_no_dirty_page_in_the_cache() {
    let image = Image::new(DISK_DIR, &vec![0; 1 << 20]);
    for options in ["aio=io_uring", "aio=threads"] {
        let node = open(&image, options);
        let mut disk = Disk::new(Arc::clone(&node), Shape::default());
        let file = std::fs::File::open(&image.0).unwrap();
        assert_eq!(disk.request((OUT, 8), &[9; 65536], 0).status, 0);
        let Some(dirty) = dirty_pages(&file) else {
            eprintln!("SKIP: this kernel has no cachestat");
            return;
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
fn stopping_waits_for_requests_in_flight_and_starting_goes_on() {
    let image = Image::new(DISK_DIR, &vec![4; 1 << 20]);
    for options in ["aio=io_uring,cache=none", "aio=threads,cache=none"] {
        let node = open(&image, options);
        let mut disk = Disk::new(Arc::clone(&node), Shape::default());
        for sector in 0..10 {
            disk.put(0, (IN, sector * 8), &[], 4096, 1);
        }
        disk.kick(0);
        disk.iterate(1);
        assert_eq!(disk.stop(0), 10);
        for _ in 0..10 {
            assert_eq!(disk.take_done(0).unwrap().1.data, [4; 4096]);
        }
        let head = disk.put(0, (IN, 0), &[], 512, 1);
        disk.kick(0);
        disk.iterate(3);
        assert!(disk.take_done(0).is_none(), "a stopped queue takes nothing");
        disk.start(0, 10).unwrap();
        let mut done = None;
        disk.wait(|disk| {
            done = disk.take_done(0);
            done.is_some()
        });
        assert_eq!(done.unwrap().0, head);
        disk.stop(0);
        drop(node);
        disk.close();
    }
}

#[test]
fn a_dropped_disk_finishes_what_is_in_flight_and_frees_its_node() {
    for options in ["aio=io_uring", "aio=threads"] {
        let image = Image::new(DISK_DIR, &vec![4; 1 << 20]);
        let node = open(&image, &format!("{options},cache=none"));
        let mut disk = Disk::new(Arc::clone(&node), Shape::default());
        for sector in 0..10 {
            disk.put(0, (IN, sector * 8), &[], 4096, 1);
        }
        disk.kick(0);
        disk.iterate(1);
        let Disk {
            aio,
            blk,
            mut ram,
            mut clients,
            ..
        } = disk;
        drop(blk);
        let start = std::time::Instant::now();
        while node.claim().is_err() {
            assert!(start.elapsed() < disk::DEADLINE);
            aio.poll(gsource::Wait::NoBlock).unwrap();
        }
        for _ in 0..10 {
            clients[0]
                .ring
                .take_used(&ram)
                .expect("finished before it went");
        }
        ram.alloc(1, 1);
    }
}

#[test]
fn kick_and_call_fds_can_be_replaced_while_running() {
    let mut disk = Disk::new(open_node("driver=null-co").unwrap(), Shape::default());
    let (kick, call) = (eventfd(), eventfd());
    disk.blk
        .set_kick(0, Some(kick.try_clone().unwrap()))
        .unwrap();
    disk.blk
        .set_call(0, Some(call.try_clone().unwrap()))
        .unwrap();
    assert_eq!(take(&call), 1, "a new call fd is signalled once");
    disk.iterate(2);
    disk.clients[0].kick = kick;
    disk.request((IN, 0), &[], 512);
    assert_eq!(take(&call), 1);
    disk.blk.set_call(0, None).unwrap();
    disk.request((IN, 0), &[], 512);
    assert_eq!(take(&call), 0);
    let pipe = std::io::pipe().unwrap().0.into();
    let error = disk.blk.set_kick(0, Some(pipe)).unwrap_err();
    assert_eq!(error.to_string(), "the kick fd is not an eventfd");
}

#[test]
fn wrong_starts_are_refused() {
    let mut disk = Disk::new(open_node("driver=null-co").unwrap(), Shape::default());
    let busy = disk.start(0, 0).unwrap_err();
    assert_eq!(busy.to_string(), "the queue is running already");
    disk.clients[0].index = 1;
    let unknown = disk.start(0, 0).unwrap_err();
    assert_eq!(
        unknown.to_string(),
        "the disk has 1 queues, there is no queue 1"
    );
}

#[test]
fn a_full_call_counter_with_blocking_flag_does_not_stop_the_loop() {
    let mut disk = Disk::new(open_node("driver=null-co").unwrap(), Shape::default());
    signal(&disk.clients[0].call, u64::MAX - 1);
    for _ in 0..50 {
        assert_eq!(disk.request((IN, 0), &[], 512).status, 0);
    }
    assert!(disk.blk.stats(0).calls >= 50);
}

#[test]
fn a_truncated_memory_file_stops_only_its_queue() {
    let node = open_node("driver=null-co,read-zeroes=on").unwrap();
    let mut victim = Disk::new(node, Shape::default());
    let mut neighbour = Disk::new(open_node("driver=null-co").unwrap(), Shape::default());
    victim.put(0, (IN, 0), &[], 512, 1);
    victim.kick(0);
    victim.ram.truncate(0);
    victim.iterate(3);
    assert_eq!(
        victim.blk.broken(0).unwrap().reason(),
        "the memory file was truncated"
    );
    assert_eq!(take(&victim.clients[0].err), 1);
    assert_eq!(neighbour.request((IN, 0), &[], 512).status, 0);
    victim.stop(0);
}

#[test]
fn a_chain_without_room_for_a_status_breaks_the_queue_and_no_kick_revives_it() {
    let mut disk = Disk::new(open_node("driver=null-co").unwrap(), Shape::default());
    let header = Buffer {
        address: RAM_START,
        len: 16,
        writable: false,
    };
    disk.clients[0].ring.add(&disk.ram, &[header]).unwrap();
    disk.kick(0);
    disk.iterate(2);
    assert_eq!(
        disk.blk.broken(0).unwrap().reason(),
        "request without room for a status"
    );
    assert_eq!(take(&disk.clients[0].err), 1);
    let kicks = disk.blk.stats(0).kicks;
    signal(&disk.clients[0].kick, 1);
    disk.iterate(3);
    assert_eq!(disk.blk.stats(0).kicks, kicks);
    let next = disk.stop(0);
    assert_eq!(next, 1);
    disk.clients[0].ring.used_seen = disk.clients[0].ring.used_index(&disk.ram);
    disk.start(0, next).unwrap();
    assert_eq!(disk.request((IN, 0), &[], 512).status, 0, "a restart heals");
}

#[test]
fn a_cut_off_header_is_an_io_error() {
    let mut disk = Disk::new(open_node("driver=null-co").unwrap(), Shape::default());
    let piece = |len, writable| Buffer {
        address: RAM_START + 0x10_0000,
        len,
        writable,
    };
    let buffers = [piece(15, false), piece(1, true)];
    let head = disk.clients[0].ring.add(&disk.ram, &buffers).unwrap();
    disk.kick(0);
    disk.iterate(2);
    assert_eq!(disk.clients[0].ring.take_used(&disk.ram), Some((head, 1)));
    assert_eq!(disk.ram.read(RAM_START + 0x10_0000, 1), [1]);
}

#[test]
fn thousands_of_malformed_chains_never_hang_the_disk() {
    let image = Image::new(SHM, &[0; 65536]);
    for options in [
        "driver=null-co,size=64K".to_owned(),
        format!("file={},format=raw", image.path()),
    ] {
        let shape = Shape {
            size: 16,
            indirect: true,
            slots: 1,
            ..Shape::default()
        };
        let mut disk = Disk::stopped(open_node(&options).unwrap(), shape);
        let mut random = Random(99);
        let mut broken = 0;
        for _ in 0..3000 {
            scramble(&mut disk, &mut random);
            let avail = disk.clients[0].ring.avail_index;
            disk.start(0, avail).unwrap();
            let count = 1 + random.below(16);
            for _ in 0..count {
                let head = u16::try_from(random.below(20)).unwrap();
                disk.clients[0].ring.offer(&disk.ram, head);
            }
            disk.clients[0].ring.publish(&disk.ram);
            disk.iterate(2);
            broken += u32::from(disk.blk.broken(0).is_some());
            disk.stop(0);
        }
        assert!((300..3000).contains(&broken), "{broken} queues broke");
    }
}

/// Fills descriptors and data with numbers that are wrong in interesting ways.
fn scramble(disk: &mut Disk, random: &mut Random) {
    let ring = &disk.clients[0].ring;
    let data = RAM_START + disk.ram.size() - 0x2000;
    let mut noise = vec![0; 0x2000];
    random.fill(&mut noise);
    for byte in noise.iter_mut().filter(|byte| **byte & 3 != 0) {
        *byte &= 0x0d;
    }
    disk.ram.write(data, &noise);
    for index in 0..16 {
        let buffer = Buffer {
            address: match random.below(16) {
                0 => random.number(),
                1 => ring.descriptors,
                _ => data + random.below(0x2100),
            },
            len: u32::try_from(match random.below(8) {
                0 => random.below(1 << 32),
                1 => 0,
                2 => 16 * random.below(9),
                _ => random.below(0x1000),
            })
            .unwrap(),
            writable: random.below(2) == 0,
        };
        let flags = if random.below(8) == 0 {
            random.number()
        } else {
            random.below(2)
        };
        let next = random.below(17);
        let flags = u16::try_from(flags & 0xffff).unwrap();
        ring.set_descriptor(
            &disk.ram,
            index,
            buffer,
            flags,
            u16::try_from(next).unwrap(),
        );
    }
}

#[test]
fn large_and_inline_reads_on_one_queue_do_not_starve_its_neighbour() {
    for (len, depth) in [(1 << 20, 64), (64 * 1024, 64), (4096, 64)] {
        let image = Image::new(SHM, &vec![1; 8 << 20]);
        let shape = Shape {
            queues: 2,
            slots: 64,
            ..Shape::default()
        };
        let mut disk = Disk::new(open(&image, "aio=io_uring"), shape);
        for _ in 0..depth {
            disk.put(0, (IN, 0), &[], len, 1);
        }
        disk.kick(0);
        disk.put(1, (IN, 8), &[], 4096, 1);
        disk.kick(1);
        disk.iterate(2);
        assert!(disk.take_done(1).is_some(), "{len}: the neighbour waits");
        let moved = disk.blk.stats(0).bytes_read;
        assert!(
            moved <= 4 << 20,
            "{len}: {moved} bytes moved in two iterations"
        );
        let mut finished = 0;
        disk.wait(|disk| {
            while let Some((_, done)) = disk.take_done(0) {
                assert_eq!(done.status, 0);
                finished += 1;
            }
            finished == depth
        });
    }
}

#[test]
fn long_misaligned_requests_go_through_bounce_buffers() {
    const LEN: usize = 300 * 1024;
    for options in ["aio=io_uring,cache=none", "aio=threads,cache=none"] {
        let mut model = vec![0; 48 * LEN];
        Random(5).fill(&mut model);
        let image = Image::new(DISK_DIR, &model);
        let shape = Shape {
            slots: 48,
            ..Shape::default()
        };
        let mut disk = Disk::new(open(&image, options), shape);
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
        assert!(std::fs::read(&image.0).unwrap() == model, "{options}");
    }
}

#[test]
fn data_memory_that_is_taken_away_fails_the_request_and_stops_the_queue() {
    for (directory, options) in STORES {
        let image = Image::new(directory, &[1; 65536]);
        let mut disk = Disk::new(open(&image, options), Shape::default());
        let head = disk.put(0, (IN, 0), &[], 4096, 1);
        disk.kick(0);
        // The ring stays, the requests' slots go.
        let ring_end = disk.clients[0].ring.used + 8192 - RAM_START;
        disk.ram
            .truncate(i64::try_from(ring_end.next_multiple_of(4096)).unwrap());
        let mut used = None;
        disk.wait(|disk| {
            used = used.or_else(|| disk.clients[0].ring.take_used(&disk.ram));
            signal(&disk.clients[0].kick, 1);
            disk.blk.broken(0).is_some()
        });
        let reason = disk.blk.broken(0).unwrap().reason();
        assert_eq!(reason, "the memory file was truncated");
        assert!(used.is_none_or(|(used, _)| used == head));
        disk.stop(0);
    }
}

#[test]
fn no_kick_and_no_call_is_lost_between_two_sleepers() {
    for (event_idx, depth) in [(false, 1), (true, 1), (false, 3), (true, 3)] {
        let node = open_node("driver=null-co").unwrap();
        let shape = Shape {
            event_idx,
            ..Shape::default()
        };
        let mut disk = Disk::new(node, shape);
        take(&disk.clients[0].call);
        let stop = Arc::new(AtomicBool::new(false));
        let (aio, stopped) = (disk.aio.clone(), Arc::clone(&stop));
        let device = std::thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                aio.poll(gsource::Wait::Block).unwrap();
            }
        });
        let mut in_flight = 0;
        for sector in 0..3000 {
            disk.put(0, (IN, sector), &[], 512, 1);
            disk.kick(0);
            in_flight += 1;
            while in_flight == depth {
                sleep_for_call(&disk);
                while disk.take_done(0).is_some() {
                    in_flight -= 1;
                }
            }
        }
        stop.store(true, Ordering::Release);
        disk.aio.notify();
        device.join().unwrap();
        disk.close();
    }
}

/// Waits as a guest does: sleeps until called, unless something is finished already.
fn sleep_for_call(disk: &Disk) {
    let client = &disk.clients[0];
    let mut poll = libc::pollfd {
        fd: client.call.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    if client.ring.event_idx {
        client.ring.set_used_event(&disk.ram, client.ring.used_seen);
    }
    if client.ring.used_index(&disk.ram) == client.ring.used_seen {
        // SAFETY: one valid pollfd.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 20_000) };
        assert_eq!(ready, 1, "a kick or a call was lost");
    }
    take(&client.call);
}
