//! `discard=` and `detect-zeroes=` of a node: what a guest discards, and zeroes that it writes, as the file's allocated blocks show it.
#![forbid(unsafe_code)]
#![cfg(all(feature = "vhost-user", feature = "monitor"))]
#![allow(clippy::unwrap_used)] // also in what tests call

use std::fs;
use std::os::unix::fs::MetadataExt;

use support::directory::TestDir;
use support::front_end::{Guest, Io};
use support::server::Server;

const SIZE: usize = 4 << 20;
const PART: usize = 1 << 20;

/// What the guest does with the second MiB of the disk.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Discard,
    WriteZeroBytes,
}

/// What is expected of the file afterwards.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Storage {
    /// The part has as much storage as before.
    Kept,
    /// It has none.
    Freed,
}

/// The options, the act, and the storage that the part keeps if it had some.
const OF_DATA: [(&str, Act, Storage); 7] = [
    ("", Act::Discard, Storage::Freed),
    ("discard=unmap", Act::Discard, Storage::Freed),
    ("discard=ignore", Act::Discard, Storage::Kept),
    ("", Act::WriteZeroBytes, Storage::Kept),
    ("detect-zeroes=on", Act::WriteZeroBytes, Storage::Kept),
    (
        "detect-zeroes=unmap,discard=unmap",
        Act::WriteZeroBytes,
        Storage::Freed,
    ),
    (
        "detect-zeroes=off,discard=unmap",
        Act::WriteZeroBytes,
        Storage::Kept,
    ),
];

/// Bytes of storage of the file, which is on the disk as the guest has flushed it.
fn allocated(directory: &TestDir) -> u64 {
    fs::metadata(directory.file("disk.raw")).unwrap().blocks() * 512
}

/// Lets a guest act on the disk, whose file exists. Returns the storage of the file.
fn after(directory: &TestDir, options: &str, act: Act) -> u64 {
    let options = match options {
        "" => String::new(),
        options => format!(",{options}"),
    };
    // In both spellings.
    for (number, line) in [
        format!("-blockdev file,node-name=d,filename=disk.raw{options} -device virtio-blk,id=disk,drive=d,vhost-user=d.sock"),
        format!("-drive if=none,id=d,file=disk.raw,format=raw{options} -device virtio-blk,id=disk,drive=d,vhost-user=d.sock"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut server = Server::start(directory, &line.split_whitespace().collect::<Vec<_>>());
        let socket = directory.socket("d.sock");
        let mut guest = Guest::connect(&socket, 1, 64, true, PART).unwrap();
        let offset = PART + number * PART;
        let result = match act {
            Act::Discard => {
                guest.submit_discard(0, 0, offset as u64, PART as u64);
                guest.kick(0);
                guest.wait(0)[0].1
            }
            Act::WriteZeroBytes => guest.run(
                0,
                &Io {
                    write: true,
                    offset: offset as u64,
                    segments: vec![(0, PART)],
                },
            ),
        };
        assert_eq!(result, 0);
        assert_eq!(guest.flush(0), 0);
        drop(guest);
        server.stop();
    }
    allocated(directory)
}

#[test]
fn storage_of_data_is_freed_or_kept_as_the_options_say() {
    for (options, act, expected) in OF_DATA {
        let directory = TestDir::new();
        fs::write(directory.file("disk.raw"), vec![7; SIZE]).unwrap();
        fs::File::open(directory.file("disk.raw"))
            .unwrap()
            .sync_all()
            .unwrap();
        let before = allocated(&directory);
        let freed = before - after(&directory, options, act);
        let wanted = if expected == Storage::Freed {
            2 * PART as u64
        } else {
            0
        };
        assert_eq!(freed, wanted, "{options} {act:?}");
        let bytes = fs::read(directory.file("disk.raw")).unwrap();
        let is_zero = act == Act::WriteZeroBytes || expected == Storage::Freed;
        let byte = if is_zero { 0 } else { 7 };
        assert!(
            bytes[PART..3 * PART].iter().all(|&one| one == byte),
            "{options} {act:?}"
        );
        assert!(
            bytes[..PART].iter().all(|&one| one == 7),
            "{options} {act:?}"
        );
    }
}

#[test]
fn zeroes_take_no_storage_in_holes_if_they_are_detected() {
    for (options, wanted) in [
        ("", 2 * PART as u64),
        ("detect-zeroes=unmap,discard=unmap", 0),
    ] {
        let directory = TestDir::new();
        directory.image("disk.raw", 4);
        let found = after(&directory, options, Act::WriteZeroBytes);
        assert_eq!(found, wanted, "{options}");
    }
}
