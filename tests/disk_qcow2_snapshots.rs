//! Guests write to qcow2 images that have internal snapshots: a snapshot keeps what it has, whatever is written, and also if the
//! program is killed.
//!
//! Needs `qemu-img`; the tests say SKIP where that is not installed.
#![forbid(unsafe_code)]
#![cfg(all(feature = "vhost-user", feature = "monitor"))]
#![allow(clippy::unwrap_used)] // also in what tests call

use std::fs;

use support::directory::TestDir;
use support::front_end::{Guest, Io};
use support::qemu_img::{check, content, missing, qemu_img, wait_unlocked};
use support::qmp::{generic, returns};
use support::random::Random;
use support::server::Server;
use support::skip::skip;
use support::workload::Workload;

const LOAD: Workload = Workload {
    depth: 16,
    requests: 1500,
    keeps_data: true,
};
const DISK: &str = "-drive if=none,id=d,file=disk.qcow2,format=qcow2 \
    -device virtio-blk,id=disk,drive=d,num-queues=2,vhost-user=d.sock";

fn guest(directory: &TestDir) -> Guest {
    Guest::connect(&directory.socket("d.sock"), 2, 128, true, LOAD.memory(2)).unwrap()
}

fn work(directory: &TestDir, seed: u64) {
    LOAD.run(&mut guest(directory), &mut Random(seed));
}

/// An image with a guest's data and the snapshot `s`.
fn image_with_snapshot(directory: &TestDir, options: &str) -> Vec<u8> {
    let create = ["create", "-f", "qcow2", "-o", options, "disk.qcow2", "4M"];
    qemu_img(directory.path(), &create);
    let mut server = Server::start_line(directory, DISK);
    work(directory, 3);
    server.stop();
    qemu_img(directory.path(), &["snapshot", "-c", "s", "disk.qcow2"]);
    content(directory.path(), "disk.qcow2")
}

/// What a snapshot has.
fn snapshot_content(directory: &TestDir) -> Vec<u8> {
    let convert = "convert -l snapshot.name=s -O raw disk.qcow2 snapshot.raw";
    qemu_img(
        directory.path(),
        &convert.split_whitespace().collect::<Vec<_>>(),
    );
    fs::read(directory.file("snapshot.raw")).unwrap()
}

#[test]
fn a_snapshot_keeps_its_data_when_the_disk_is_written() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    for options in ["cluster_size=64k", "cluster_size=4k", "compat=0.10"] {
        let directory = TestDir::new();
        let before = image_with_snapshot(&directory, options);
        let mut server = Server::start_line(&directory, DISK);
        work(&directory, 5);
        let mut front_end = guest(&directory);
        front_end.submit_discard(0, 0, 0, 64 << 10);
        front_end.submit_zeroes(0, 1, 128 << 10, 64 << 10);
        front_end.kick(0);
        let mut left = 2;
        while left > 0 {
            let finished = front_end.wait(0);
            assert!(finished.iter().all(|&(_, result)| result == 0));
            left -= finished.len();
        }
        drop(front_end);
        server.stop();
        check(directory.path(), "disk.qcow2", false);
        assert!(content(directory.path(), "disk.qcow2") != before);
        assert!(snapshot_content(&directory) == before, "{options}");
        qemu_img(directory.path(), &["snapshot", "-a", "s", "disk.qcow2"]);
        assert!(content(directory.path(), "disk.qcow2") == before);
        qemu_img(directory.path(), &["snapshot", "-d", "s", "disk.qcow2"]);
        check(directory.path(), "disk.qcow2", false);
    }
}

/// The snapshots of an old image do not know how long they were.
#[test]
fn a_disk_with_snapshots_gets_another_length_if_they_know_theirs() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    for (options, is_resized) in [("compat=1.1", true), ("compat=0.10", false)] {
        let directory = TestDir::new();
        let before = image_with_snapshot(&directory, options);
        for length in [8 << 20, 2 << 20] {
            let mut server = Server::start_line(&directory, DISK);
            let resize = format!(
                r#"{{"execute":"block_resize","arguments":{{"device":"d","size":{length}}}}}"#
            );
            let expected = match is_resized {
                true => returns("{}"),
                false => generic("Can't resize a v2 image which has snapshots"),
            };
            assert_eq!(server.client().ask(resize), expected);
            server.stop();
            check(directory.path(), "disk.qcow2", false);
        }
        qemu_img(directory.path(), &["snapshot", "-a", "s", "disk.qcow2"]);
        assert!(content(directory.path(), "disk.qcow2") == before);
    }
}

#[test]
fn a_kill_leaves_a_snapshot_as_it_is() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let mut random = Random(29);
    for round in 0..4 {
        let directory = TestDir::new();
        let before = image_with_snapshot(&directory, "cluster_size=4k");
        let mut server = Server::start_line(&directory, DISK);
        let mut client = server.client();
        let mut front_end = guest(&directory);
        for slot in 0..32 {
            let io = Io {
                write: true,
                offset: (random.index(1024) * 4096) as u64,
                segments: vec![(slot * 4096, 4096)],
            };
            front_end.submit(0, slot, &io);
        }
        front_end.kick(0);
        for _ in 0..random.index(10) {
            client.ask(r#"{"execute":"query-jobs"}"#);
        }
        server.signal("KILL");
        server.wait();
        drop(front_end);
        wait_unlocked(directory.path(), "disk.qcow2");
        check(directory.path(), "disk.qcow2", true);
        assert!(snapshot_content(&directory) == before, "round {round}");
    }
}
