//! `--export fuse`: a node as a file that is mounted. What programs read and write, its length, its holes, its errors, who may
//! open it, and how it ends.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "kvm"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;
use support::directory::TestDir;
use support::front_end::{Guest, Io};
use support::random::Random;
use support::shared_sectors;
use support::skip::skip;

mod life;
mod rig;

use rig::{Rig, can_mount};

const MIB: u64 = 1 << 20;
const FILE: &str = "file,node-name=n0,filename=disk.raw";

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

#[test]
fn a_node_is_a_file_that_shows_what_others_do_with_the_node() {
    let Some(rig) = Rig::new(FILE, ",writable=on") else {
        return;
    };
    let metadata = fs::metadata(rig.path()).unwrap();
    assert_eq!((metadata.len(), metadata.mode()), (4 * MIB, 0o100_600));
    let file = rig.open();
    // Neither the place nor the length is made of blocks.
    file.write_all_at(b"neighbours stay", 1_000_001).unwrap();
    file.write_all_at(b"STAY", 1_000_012).unwrap();
    file.sync_data().unwrap();
    assert_eq!(&rig.image()[1_000_000..1_000_017], b"\0neighbours STAY\0");
    rig.resize(2 * MIB);
    assert_eq!(rig.length(), 2 * MIB);
    let mut bytes = [1; 16];
    assert_eq!(file.read_at(&mut bytes, 2 * MIB - 7).unwrap(), 7);
    assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
    assert_eq!(file.read_at(&mut bytes, 3 * MIB).unwrap(), 0);
    // The length is that of the node, whatever programs do that begin anew.
    File::create(rig.path()).unwrap();
    assert_eq!(rig.length(), 2 * MIB);
}

#[test]
fn a_file_is_read_only_unless_the_options_say_otherwise() {
    let Some(rig) = Rig::new(FILE, "") else {
        return;
    };
    let mode = fs::metadata(rig.path()).unwrap().mode();
    assert_eq!(mode, 0o100_400);
    let chmod = |bits| fs::set_permissions(rig.path(), fs::Permissions::from_mode(bits));
    assert_eq!(errno(chmod(0o600)), raw(Errno::ROFS));
    chmod(0o500).unwrap();
    // root may open it all the same.
    if let Ok(file) = File::options().write(true).open(rig.path()) {
        assert_eq!(errno(file.write_at(b"x", 0)), raw(Errno::ACCESS));
        assert_eq!(errno(file.set_len(0)), raw(Errno::ACCESS));
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        assert_eq!(fallocate(&file, punch, 0, 4096), Err(Errno::ACCESS));
    }
    assert_eq!(rig.image(), vec![0; 4 << 20]);
}

fn raw(errno: Errno) -> i32 {
    errno.raw_os_error()
}

#[test]
fn writes_beyond_the_end_make_a_growable_file_longer() {
    let Some(rig) = Rig::new(FILE, ",writable=on,growable=on,iothread=io0") else {
        return;
    };
    // Each thread adds its piece behind the end, in whatever order: none is cut off.
    let write = |index: u8| {
        let file = rig.open();
        move || {
            let place = 4 * MIB + u64::from(index) * 3000;
            file.write_all_at(&[index; 3000], place).unwrap();
        }
    };
    let threads: Vec<_> = (1..9).map(|index| thread::spawn(write(index))).collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    let image = rig.image();
    for index in 1..9_u8 {
        let at = (4 << 20) + usize::from(index) * 3000;
        assert_eq!(image[at..at + 3000], [index; 3000], "{index}");
    }
    // The file has its bytes, the node whole sectors.
    assert_eq!(image.len(), (4 << 20) + 27_000);
    assert_eq!(rig.length(), (4 * MIB + 27_000).next_multiple_of(512));
    rig.open().set_len(MIB).unwrap();
    assert_eq!((rig.length(), rig.image().len()), (MIB, 1 << 20));
}

#[test]
fn a_growing_image_needs_no_worker_for_its_growth() {
    let directory = TestDir::new();
    let image = directory.file("disk.raw");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(&image)
        .arg("4M")
        .status();
    if !made.is_ok_and(|made| made.success()) || !can_mount() {
        skip("no qemu-img or no /dev/fuse");
        return;
    }
    let rig = Rig::start(
        directory,
        &[],
        "driver=qcow2,node-name=n0,file.driver=file,file.filename=disk.raw,file.aio=threads",
        ",writable=on,growable=on,iothread=io1",
    );
    // The only worker has the parts of writes to do that a growth waits for.
    let write = |index: u8| {
        let file = rig.open();
        move || {
            for round in 0..16 {
                let place = 4 * MIB + (u64::from(index) + 8 * round) * 65_536;
                file.write_all_at(&[index; 65_536], place).unwrap();
            }
        }
    };
    let threads: Vec<_> = (0..8).map(|index| thread::spawn(write(index))).collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    assert_eq!(rig.length(), 12 * MIB);
}

#[test]
fn writes_beyond_the_end_of_a_file_that_does_not_grow_have_no_space() {
    let Some(rig) = Rig::new(FILE, ",writable=on") else {
        return;
    };
    let file = rig.open();
    assert_eq!(file.write_at(&[7; 5000], 4 * MIB - 1000).unwrap(), 1000);
    assert_eq!(errno(file.write_at(b"x", 4 * MIB)), raw(Errno::NOSPC));
    assert_eq!(rig.length(), 4 * MIB);
    // What a user asks for by name is done.
    file.set_len(5 * MIB).unwrap();
    fallocate(&file, FallocateFlags::empty(), 5 * MIB, 64 << 10).unwrap();
    assert_eq!(rig.length(), 5 * MIB + (64 << 10));
    let used = fs::metadata(rig.directory.file("disk.raw"))
        .unwrap()
        .blocks()
        * 512;
    assert!(used >= 64 << 10, "{used}");
}

#[test]
fn holes_are_seen_made_and_filled() {
    let Some(rig) = Rig::new(FILE, ",writable=on") else {
        return;
    };
    let file = rig.open();
    file.write_all_at(&[1; 1 << 20], MIB).unwrap();
    file.sync_all().unwrap();
    let [data, hole] = [SeekFrom::Data, SeekFrom::Hole].map(|make| {
        let file = &file;
        move |at: u64| seek(file, make(at.cast_signed()))
    });
    assert_eq!((data(0), hole(0)), (Ok(MIB), Ok(0)));
    assert_eq!((data(MIB), hole(MIB)), (Ok(MIB), Ok(2 * MIB)));
    assert_eq!(
        (data(2 * MIB), hole(4 * MIB)),
        (Err(Errno::NXIO), Ok(4 * MIB))
    );
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    // The ends are within blocks.
    fallocate(&file, punch, MIB + 100, 512 << 10).unwrap();
    assert_eq!(data(MIB + 8192).unwrap(), (MIB + (512 << 10)) / 4096 * 4096);
    let image = rig.image();
    let (start, end) = ((1 << 20) + 100, (1 << 20) + (512 << 10) + 100);
    assert_eq!(
        image[start - 1..end + 1]
            .iter()
            .filter(|&&byte| byte == 1)
            .count(),
        2
    );
    // Zeroes that have space are no hole.
    let zero = FallocateFlags::ZERO_RANGE;
    fallocate(&file, zero | FallocateFlags::KEEP_SIZE, 3 * MIB, 2 * MIB).unwrap();
    assert_eq!(rig.length(), 4 * MIB);
    fallocate(&file, zero, 3 * MIB, 2 * MIB).unwrap();
    assert_eq!(rig.length(), 5 * MIB);
    fallocate(&file, punch, 8 * MIB, MIB).unwrap();
    let refused = [
        FallocateFlags::empty(),
        FallocateFlags::KEEP_SIZE,
        FallocateFlags::COLLAPSE_RANGE,
    ];
    for flags in refused {
        assert_eq!(
            fallocate(&file, flags, 0, 4096),
            Err(Errno::OPNOTSUPP),
            "{flags:?}"
        );
    }
}

#[test]
fn an_error_of_the_node_is_the_error_of_the_call() {
    let blockdev = concat!(
        r#"{"driver":"blkdebug","node-name":"n0","image":{"driver":"file","filename":"disk.raw"},"inject-error":["#,
        r#"{"event":"none","iotype":"read","errno":5,"sector":8},"#,
        r#"{"event":"none","iotype":"write","errno":28,"sector":16},"#,
        r#"{"event":"none","iotype":"flush","errno":5}]}"#
    );
    let Some(rig) = Rig::new(blockdev, ",writable=on") else {
        return;
    };
    let file = rig.open();
    assert_eq!(errno(file.read_at(&mut [0; 512], 4096)), raw(Errno::IO));
    assert_eq!(errno(file.write_at(&[0; 512], 8192)), raw(Errno::NOSPC));
    assert_eq!(errno(file.sync_all()), raw(Errno::IO));
    assert_eq!(file.read_at(&mut [0; 512], 8192).unwrap(), 512);
}

#[test]
fn a_request_that_waits_holds_no_other_one_up() {
    let blockdev = concat!(
        r#"{"driver":"blkdebug","node-name":"n0","image":{"driver":"file","filename":"disk.raw"},"x-inject-delay":["#,
        r#"{"event":"none","iotype":"read","ns":3600000000000,"sector":0}]}"#
    );
    let Some(mut rig) = Rig::new(blockdev, ",writable=on") else {
        return;
    };
    let file = rig.open();
    let waiting = rig.open();
    let (begun, has_begun) = channel();
    let thread = thread::spawn(move || {
        begun.send(()).unwrap();
        waiting.read_at(&mut [0; 512], 0)
    });
    has_begun.recv().unwrap();
    for at in 1..200 {
        file.write_all_at(&[9; 512], at * 512).unwrap();
        file.read_exact_at(&mut [0; 512], at * 512).unwrap();
    }
    assert!(!thread.is_finished());
    rig.server.signal("KILL");
    rig.server.wait();
    assert!(thread.join().unwrap().is_err());
}

/// Reads and writes pieces of its own part of the file at random and checks them.
fn exercise(file: &File, part: u64, seed: u64, rounds: usize) -> Vec<u8> {
    const PART: usize = 1 << 20;
    let mut random = Random(seed);
    let mut expected = vec![0; PART];
    let mut bytes = vec![0; 200_000];
    for _ in 0..rounds {
        let at = random.index(PART - 1);
        let length = (1 + random.index(bytes.len())).min(PART - at);
        let place = part * MIB + at as u64;
        if random.below(2) == 0 {
            random.fill(&mut bytes[..length]);
            file.write_all_at(&bytes[..length], place).unwrap();
            expected[at..at + length].copy_from_slice(&bytes[..length]);
        } else {
            file.read_exact_at(&mut bytes[..length], place).unwrap();
            assert!(
                bytes[..length] == expected[at..at + length],
                "other data at {place}"
            );
        }
    }
    expected
}

#[test]
fn threads_read_what_they_wrote_while_a_guest_uses_the_node_and_it_grows() {
    let Some(rig) = Rig::new(FILE, ",writable=on,iothread=io0") else {
        return;
    };
    let add = r#"{"execute":"block-export-add","arguments":{"type":"vhost-user-blk","id":"e1","node-name":"n0","addr":{"type":"unix","path":"e1.sock"},"iothread":"io0"}}"#;
    assert_eq!(rig.server.client().ask(add), r#"{"return": {}}"#);
    let work = |part| {
        let file = rig.open();
        move || exercise(&file, part, 77 + part, 150)
    };
    let threads: Vec<_> = (0..4).map(|part| thread::spawn(work(part))).collect();
    let mut guest = Guest::connect(&rig.directory.socket("e1.sock"), 1, 128, false, 4096).unwrap();
    let read = Io {
        write: false,
        offset: 0,
        segments: vec![(0, 4096)],
    };
    let mut length = 4 * MIB;
    while threads.iter().any(|thread| !thread.is_finished()) {
        assert_eq!(guest.run(0, &read), 0);
        length += 4096;
        rig.resize(length);
    }
    let parts = threads
        .into_iter()
        .flat_map(|thread| thread.join().unwrap());
    let expected: Vec<u8> = parts.collect();
    assert!(rig.image()[..4 << 20] == expected);
    assert_eq!(rig.length(), length);
    // The guest reads through its own export what came through the file.
    assert_eq!(guest.run(0, &read), 0);
    assert_eq!(guest.memory.bytes()[..4096], expected[..4096]);
}

/// With direct I/O the node has larger blocks than without.
#[test]
fn a_node_is_opened_anew_while_its_file_is_written() {
    let Some(rig) = Rig::new(FILE, ",writable=on,iothread=io0") else {
        return;
    };
    let mut client = rig.server.client();
    let mut reopen = |is_direct: bool| {
        let command = format!(
            r#"{{"execute":"blockdev-reopen","arguments":{{"options":[{{"driver":"file","node-name":"n0","filename":"disk.raw","cache":{{"direct":{is_direct}}}}}]}}}}"#
        );
        client.ask(command)
    };
    let direct = reopen(true);
    if direct != r#"{"return": {}}"# {
        return skip(direct);
    }
    let work = |part| {
        let file = rig.open();
        move || exercise(&file, part, 99 + part, 150)
    };
    let threads: Vec<_> = (0..3).map(|part| thread::spawn(work(part))).collect();
    let mut is_direct = true;
    while threads.iter().any(|thread| !thread.is_finished()) {
        is_direct = !is_direct;
        assert_eq!(reopen(is_direct), r#"{"return": {}}"#);
    }
    let parts = threads
        .into_iter()
        .flat_map(|thread| thread.join().unwrap());
    let expected: Vec<u8> = parts.collect();
    assert!(rig.image()[..3 << 20] == expected);
}

#[test]
fn a_guest_and_a_program_lose_no_write_to_the_same_blocks() {
    for direct in ["", ",cache.direct=on"] {
        let node = format!("{FILE}{direct}");
        let Some(rig) = Rig::new(&node, ",writable=on,iothread=io1") else {
            return;
        };
        let add = r#"{"execute":"block-export-add","arguments":{"type":"vhost-user-blk","id":"e1","node-name":"n0","writable":true,"addr":{"type":"unix","path":"e1.sock"},"iothread":"io0"}}"#;
        assert_eq!(rig.server.client().ask(add), r#"{"return": {}}"#);
        let socket = rig.directory.socket("e1.sock");
        let mut guest = Guest::connect(&socket, 1, 128, false, shared_sectors::GUEST_MEMORY);
        shared_sectors::exercise(guest.as_mut().unwrap(), &mut rig.open());
    }
}
