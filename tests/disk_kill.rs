//! `qctx` is ended or killed while its disks are written: acknowledged writes are on the disk, and no socket stays behind.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // whatever goes wrong ends the test

use std::fs;
use std::path::Path;

use support::directory::TestDir;
use support::linux_guest::{self, Guest};
use support::server::Server;
use support::skip::skip;
use support::writer::{BLOCK, Writer, content};

const SERVED: [&str; 6] = [
    "-object",
    "qcontext,id=ctx1,threaded=yes",
    "-drive",
    "if=none,id=d0,file=disk0.raw,format=raw",
    "-device",
    "virtio-blk,id=disk0,drive=d0,x-data-plane=on,context=ctx1,vhost-user=disk0.sock",
];

/// The number of the block that the guest says it has synced, if the line says so.
fn synced(line: &str) -> Option<usize> {
    line.strip_prefix("guest: disk0 synced ")?.parse().ok()
}

/// Block `number` as the guest writes it: its number in decimal, padded with blanks to 4 KiB.
fn block(number: usize) -> Vec<u8> {
    format!("{number:4096}").into_bytes()
}

#[test]
fn sigterm_while_a_guest_writes() {
    let qemu = 7;
    if let Some(reason) = linux_guest::missing(qemu) {
        return skip(reason);
    }
    let directory = TestDir::new();
    let image = directory.image("disk0.raw", 64);
    let mut server = Server::start(&directory, &SERVED);
    let mut guest = Guest::boot(directory.path(), qemu, 1, "writes", &["disk0.sock"]);
    let mut last = None;
    while last < Some(50) {
        let line = guest.next_line().expect("the guest goes on writing");
        last = synced(&line).or(last);
    }
    server.stop();
    drop(guest);

    let bytes = fs::read(image).unwrap();
    for (number, found) in bytes.chunks(4096).take(last.unwrap() + 1).enumerate() {
        assert_eq!(found, block(number), "block {number} was synced");
    }
}

/// The blocks of the image that hold what the driver wrote there.
fn written_blocks(image: &Path) -> Vec<usize> {
    let image = fs::read(image).unwrap();
    let blocks = image.chunks(BLOCK).enumerate();
    blocks
        .filter(|(number, found)| *found == content(*number))
        .map(|(number, _)| number)
        .collect()
}

#[test]
fn sigterm_while_a_driver_writes_at_depth() {
    let directory = TestDir::new();
    let image = directory.image("disk0.raw", 64);
    let mut server = Server::start(&directory, &SERVED);
    let mut writer = Writer::connect(&directory.socket("disk0.sock"));
    writer.write_until(1000);
    server.stop();
    writer.collect();

    let mut acknowledged = writer.acknowledged;
    acknowledged.sort_unstable();
    let written = written_blocks(&image);
    assert!(
        acknowledged.iter().all(|number| written.contains(number)),
        "lost a block"
    );
}

#[test]
fn kill_keeps_what_was_acknowledged() {
    let directory = TestDir::new();
    let image = directory.image("disk0.raw", 64);
    let server = Server::start(&directory, &SERVED);
    let mut writer = Writer::connect(&directory.socket("disk0.sock"));
    writer.write_until(1000);
    drop(server);
    writer.collect();

    let written = written_blocks(&image);
    assert!(
        writer
            .acknowledged
            .iter()
            .all(|number| written.contains(number)),
        "lost a block"
    );
}

#[test]
fn a_stale_socket_is_taken_over() {
    let directory = TestDir::new();
    directory.image("disk0.raw", 64);
    drop(Server::start(&directory, &SERVED));
    assert!(
        directory.path().join("disk0.sock").exists(),
        "SIGKILL leaves the socket"
    );

    let mut server = Server::start(&directory, &SERVED);
    Writer::connect(&directory.socket("disk0.sock")).write_until(100);
    server.stop();
}
