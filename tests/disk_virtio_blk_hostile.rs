//! The virtio disk under attack: malformed rings, eventfds and memory files that the peer changes, greedy neighbours.
#![forbid(unsafe_code)]
#![cfg(feature = "vhost-user")]
#![allow(clippy::unwrap_used)] // a test program

use support::driven_disk::{
    Disk, IN, Image, Medium, STORES, Shape, open_node, signal, take, try_open,
};
use support::mock_driver::{Buffer, RAM_START};
use support::random::Random;

#[test]
fn wrong_starts_are_refused() {
    let mut disk = Disk::new(open_node("driver=null-co").unwrap(), Shape::default());
    let busy = disk.start(0, 0).unwrap_err();
    assert_eq!(busy.to_string(), "the queue is running already");
    disk.clients[0].index = 1;
    let unknown = disk.start(0, 0).unwrap_err();
    assert_eq!(
        unknown.to_string(),
        "the device has 1 queues, there is no queue 1"
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
    let image = Image::new(Medium::Memory, &[0; 65536]);
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
    for (len, depth) in [(1 << 20, 64), (64 * 1024, 64), (16 * 1024, 250)] {
        let image = Image::new(Medium::Memory, &vec![1; 8 << 20]);
        let shape = Shape {
            queues: 2,
            slots: 250,
            size: 1024,
            ..Shape::default()
        };
        let mut disk = Disk::new(try_open(&image, "aio=io_uring").unwrap(), shape);
        for _ in 0..depth {
            disk.put(0, (IN, 0), &[], len, 1);
        }
        disk.kick(0);
        disk.put(1, (IN, 8), &[], 4096, 1);
        disk.kick(1);
        disk.iterate(2);
        assert!(disk.take_done(1).is_some(), "{len}: the neighbour waits");
        // What is longer than an inline request is moved by the engine and costs the loop nothing.
        let moved = disk.blk.stats(0).bytes_read;
        let inline = if len > 64 * 1024 { 0 } else { moved };
        let bound = 3 * (256 + 64) * 1024;
        assert!(
            inline <= bound,
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
fn data_memory_that_is_taken_away_fails_the_request_and_stops_the_queue() {
    for (medium, options) in STORES {
        let image = Image::new(medium, &[1; 65536]);
        let Some(node) = try_open(&image, options) else {
            continue;
        };
        let mut disk = Disk::new(node, Shape::default());
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
