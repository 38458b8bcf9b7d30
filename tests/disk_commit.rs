//! `block-commit` while a guest works: a base gets what the images above it have, no byte of the guest is lost, and these images are
//! not needed any more. Pauses, cancellations, failing requests, and the death of the program.
//!
//! Needs `qemu-img`; the tests say SKIP where that is not installed.
#![forbid(unsafe_code)]
#![cfg(all(feature = "vhost-user", feature = "monitor"))]
#![allow(clippy::unwrap_used)] // also in what tests call

use std::fs;
use std::thread;

use support::directory::TestDir;
use support::front_end::Guest;
use support::listener::Listener;
use support::over::Over;
use support::qemu_img::{check, content, missing, overlay, qemu_img, wait_unlocked};
use support::random::Random;
use support::server::Server;
use support::skip::skip;
use support::workload::Workload;

const MIB: usize = 1 << 20;
const SIZE: usize = 8 * MIB;
const LOAD: Workload = Workload {
    depth: 16,
    requests: 2000,
    keeps_data: true,
};
/// The part of the disk that `LOAD` writes to.
const WRITTEN: usize = MIB;

fn random_part(bytes: &mut [u8], random: &mut Random) {
    bytes.fill_with(|| random.number().to_le_bytes()[0]);
}

/// Writes an image with data, holes and zeroes through `qctx` itself: `write` gets the disk's bytes, of which those that differ
/// are written.
fn write(directory: &TestDir, image: &str, at: usize, bytes: &[u8]) {
    let line = format!(
        "-drive if=none,id=d,file={image},format=qcow2 -device virtio-blk,id=disk,drive=d,vhost-user=w.sock"
    );
    let mut server = Server::start_line(directory, &line);
    let socket = directory.socket("w.sock");
    let mut guest = Guest::connect(&socket, 1, 128, true, bytes.len()).unwrap();
    guest.memory.bytes()[..bytes.len()].copy_from_slice(bytes);
    let io = support::front_end::Io {
        write: true,
        offset: at as u64,
        segments: vec![(0, bytes.len())],
    };
    guest.submit(0, 0, &io);
    guest.submit_zeroes(0, 1, (at + bytes.len()) as u64, 256 << 10);
    guest.kick(0);
    let mut left = 2;
    while left > 0 {
        let finished = guest.wait(0);
        assert!(finished.iter().all(|&(_, result)| result == 0));
        left -= finished.len();
    }
    drop(guest);
    server.stop();
}

/// Four images over each other: a base with data everywhere, two with data and zeroes in places, and the disk.
fn chain(directory: &TestDir) {
    let mut random = Random(3);
    let mut bytes = vec![0; SIZE];
    random_part(&mut bytes, &mut random);
    fs::write(directory.file("base.raw"), &bytes).unwrap();
    for (name, below, format, at) in [
        ("low.qcow2", "base.raw", "raw", MIB / 2),
        ("high.qcow2", "low.qcow2", "qcow2", 3 * MIB),
    ] {
        overlay(directory.path(), name, below, format);
        let mut part = vec![0; MIB];
        random_part(&mut part, &mut random);
        write(directory, name, at, &part);
    }
    overlay(directory.path(), "top.qcow2", "high.qcow2", "qcow2");
}

/// Reads and writes the first part of the disk, and checks what was read, until `is_over`; once at least.
fn work(directory: &TestDir, is_over: impl Fn() -> bool) {
    let socket = directory.socket("d.sock");
    let mut guest = Guest::connect(&socket, 2, 128, true, LOAD.memory(2)).unwrap();
    let mut random = Random(11);
    LOAD.run_until(&mut guest, &mut random, is_over);
}

/// The images below the disk are opened as the headers say.
const DISK: &str = "-object qcontext,id=ctx,threaded=on \
    -blockdev qcow2,node-name=top,file.driver=file,file.filename=top.qcow2 \
    -device virtio-blk,id=disk,drive=top,num-queues=2,x-data-plane=on,context=ctx,vhost-user=d.sock";

/// What `query-named-block-nodes` says of the file `name`.
fn node_of(listener: &mut Listener, name: &str) -> String {
    let nodes = listener.ask("query-named-block-nodes", "");
    let mut parts = nodes.split(r#""iops_rd""#);
    let is_it = |part: &&str| part.contains(&format!(r#""file": "{name}""#));
    parts.find(is_it).unwrap_or_default().to_owned()
}

/// Checks how many nodes can be written.
#[track_caller]
fn assert_writable(listener: &mut Listener, count: usize) {
    let nodes = listener.ask("query-named-block-nodes", "");
    assert_eq!(nodes.matches(r#""ro": false"#).count(), count, "{nodes}");
}

#[test]
fn images_go_into_their_base_while_a_guest_works() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let directory = TestDir::new();
    chain(&directory);
    let before = content(directory.path(), "top.qcow2");
    let mut server = Server::start_line(&directory, DISK);
    let mut listener = Listener::new(&server);
    let over = Over::default();
    thread::scope(|scope| {
        let end = over.when_dropped();
        let guest = scope.spawn(|| work(&directory, || over.is_set()));
        // It is slow until it has another limit, so it can be paused and cancelled.
        let slow =
            r#""device":"top","job-id":"c","top":"high.qcow2","base":"base.raw","speed":65536"#;
        listener.done("block-commit", slow);
        listener.done("job-pause", r#""id":"c""#);
        listener.status("paused");
        listener.done("job-resume", r#""id":"c""#);
        listener.status("running");
        assert_writable(&mut listener, 4);
        listener.done("job-cancel", r#""id":"c""#);
        listener.wait("BLOCK_JOB_CANCELLED");
        listener.status("null");
        assert_writable(&mut listener, 2);
        listener.done("block-commit", slow);
        let busy = listener.ask("block-stream", r#""device":"top","job-id":"s""#);
        let expected = "Node 'top' is busy: block device is in use by block job: commit";
        assert!(busy.contains(expected), "{busy}");
        listener.done("job-cancel", r#""id":"c""#);
        listener.status("null");
        let whole = r#""device":"top","job-id":"c","top":"high.qcow2","auto-finalize":false,"auto-dismiss":false"#;
        listener.done("block-commit", whole);
        listener.wait("BLOCK_JOB_PENDING");
        listener.done("job-finalize", r#""id":"c""#);
        let completed = listener.wait("BLOCK_JOB_COMPLETED");
        assert!(!completed.contains("error"), "{completed}");
        listener.status("concluded");
        listener.done("job-dismiss", r#""id":"c""#);
        drop(end);
        guest.join().unwrap();
    });
    assert_eq!(server.number("/machine/peripheral/disk.errors"), 0);
    let nodes = listener.ask("query-named-block-nodes", "");
    assert!(
        !nodes.contains("low.qcow2") && !nodes.contains("high.qcow2"),
        "{nodes}"
    );
    drop(listener);
    server.stop();
    for name in ["low.qcow2", "high.qcow2"] {
        fs::remove_file(directory.file(name)).unwrap();
    }
    check(directory.path(), "top.qcow2", false);
    let info = qemu_img(directory.path(), &["info", "top.qcow2"]);
    assert!(info.contains("backing file: base.raw"), "{info}");
    let after = content(directory.path(), "top.qcow2");
    // The guest has checked what it has written.
    assert!(after.len() == SIZE && after[WRITTEN..] == before[WRITTEN..]);
}

#[test]
fn an_image_that_is_only_read_gets_another_backing_file() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let directory = TestDir::new();
    chain(&directory);
    let before = content(directory.path(), "top.qcow2");
    let mut server = Server::start_line(&directory, DISK);
    let mut listener = Listener::new(&server);
    let over = Over::default();
    thread::scope(|scope| {
        let end = over.when_dropped();
        let guest = scope.spawn(|| work(&directory, || over.is_set()));
        let low = r#""device":"top","job-id":"c","top":"low.qcow2","backing-file":"./base.raw""#;
        listener.done("block-commit", low);
        listener.wait("BLOCK_JOB_COMPLETED");
        listener.status("null");
        drop(end);
        guest.join().unwrap();
    });
    assert!(node_of(&mut listener, "high.qcow2").contains(r#""ro": true"#));
    drop(listener);
    server.stop();
    let info = qemu_img(directory.path(), &["info", "high.qcow2"]);
    assert!(info.contains("backing file: ./base.raw"), "{info}");
    fs::remove_file(directory.file("low.qcow2")).unwrap();
    check(directory.path(), "high.qcow2", false);
    let after = content(directory.path(), "top.qcow2");
    assert!(after.len() == SIZE && after[WRITTEN..] == before[WRITTEN..]);
}

/// A disk of 8 MiB over images of these lengths, in MiB.
fn chain_of_lengths(directory: &TestDir, base: usize, middle: usize) {
    let mut random = Random(5);
    let mut bytes = vec![0; SIZE];
    random_part(&mut bytes, &mut random);
    fs::write(directory.file("base.raw"), &bytes[..base * MIB]).unwrap();
    for (name, below, format, length) in [
        ("low.qcow2", "base.raw", "raw", middle),
        ("high.qcow2", "low.qcow2", "qcow2", SIZE / MIB),
    ] {
        let length = format!("{length}M");
        let create = [
            "create", "-f", "qcow2", "-b", below, "-F", format, name, &length,
        ];
        qemu_img(directory.path(), &create);
    }
    write(directory, "high.qcow2", MIB / 2, &bytes[..64 << 10]);
    overlay(directory.path(), "top.qcow2", "high.qcow2", "qcow2");
}

#[test]
fn a_base_of_another_length_reads_as_before() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    for (base, middle) in [(2, 4), (4, 2), (2, 2), (8, 2)] {
        let directory = TestDir::new();
        chain_of_lengths(&directory, base, middle);
        let before = content(directory.path(), "top.qcow2");
        let mut server = Server::start_line(&directory, DISK);
        let mut listener = Listener::new(&server);
        let whole = r#""device":"top","job-id":"c","top":"high.qcow2""#;
        listener.done("block-commit", whole);
        let completed = listener.wait("BLOCK_JOB_COMPLETED");
        assert!(!completed.contains("error"), "{completed}");
        listener.status("null");
        drop(listener);
        server.stop();
        assert_eq!(
            directory.file("base.raw").metadata().unwrap().len(),
            SIZE as u64
        );
        let after = content(directory.path(), "top.qcow2");
        assert!(after == before, "{base} {middle}");
    }
}

#[test]
fn a_kill_at_any_time_leaves_the_disk_as_it_was() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let mut random = Random(23);
    for round in 0..4 {
        let directory = TestDir::new();
        chain(&directory);
        let before = content(directory.path(), "top.qcow2");
        let (top, base) = match round % 2 {
            0 => ("high.qcow2", "base.raw"),
            _ => ("high.qcow2", "low.qcow2"),
        };
        let mut server = Server::start_line(&directory, DISK);
        let mut listener = Listener::new(&server);
        let arguments = format!(
            r#""device":"top","job-id":"c","top":"{top}","base":"{base}","auto-dismiss":false"#
        );
        listener.done("block-commit", &arguments);
        for _ in 0..random.index(30) {
            listener.ask("query-jobs", "");
        }
        server.signal("KILL");
        server.wait();
        wait_unlocked(directory.path(), "top.qcow2");
        for name in ["low.qcow2", "high.qcow2", "top.qcow2"] {
            check(directory.path(), name, true);
        }
        let after = content(directory.path(), "top.qcow2");
        assert!(after == before, "round {round}");
    }
}

/// Starts a commit in which the rule `rule` fails one request to `node`, the base or the file of the image above it.
fn failing(node: &str, rule: &str, on_error: &str) -> (TestDir, Server, Listener) {
    let directory = TestDir::new();
    chain(&directory);
    let (high, base) = match node {
        "base" => ("file.driver=file,file.filename=high.qcow2".to_owned(), {
            format!("blkdebug,node-name=base,image.driver=file,image.filename=base.raw,{rule}")
        }),
        _ => (
            format!(
                "file.driver=blkdebug,file.image.driver=file,file.image.filename=high.qcow2,{rule}"
            ),
            "raw,node-name=base,file.driver=file,file.filename=base.raw".to_owned(),
        ),
    };
    let line = format!(
        "-blockdev {base} \
        -blockdev qcow2,node-name=low,file.driver=file,file.filename=low.qcow2,backing=base,read-only=on \
        -blockdev qcow2,node-name=high,{high},backing=low,read-only=on \
        -blockdev qcow2,node-name=top,file.driver=file,file.filename=top.qcow2,backing=high"
    );
    let server = Server::start_line(&directory, &line);
    let mut listener = Listener::new(&server);
    let arguments = format!(
        r#""device":"top","job-id":"c","top-node":"high","base-node":"base","on-error":"{on_error}","auto-dismiss":false"#
    );
    listener.done("block-commit", &arguments);
    (directory, server, listener)
}

const NO_SPACE: &str = "set-state.0.event=write_aio,set-state.0.state=1,set-state.0.new_state=2,inject-error.0.event=write_aio,inject-error.0.state=2,inject-error.0.errno=28,inject-error.0.once=on";
/// The header and the tables are read before.
const UNREADABLE: &str =
    "file.inject-error.0.event=read_aio,file.inject-error.0.sector=640,file.inject-error.0.once=on";

#[test]
fn a_failing_request_ends_the_job_or_is_repeated() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    for (node, rule, operation, on_error, action) in [
        ("base", NO_SPACE, "write", "report", "report"),
        ("base", NO_SPACE, "write", "ignore", "ignore"),
        ("base", NO_SPACE, "write", "stop", "stop"),
        ("base", NO_SPACE, "write", "enospc", "stop"),
        ("high", UNREADABLE, "read", "report", "report"),
        ("high", UNREADABLE, "read", "enospc", "report"),
        ("high", UNREADABLE, "read", "stop", "stop"),
    ] {
        let (directory, mut server, mut listener) = failing(node, rule, on_error);
        let event = listener.wait("BLOCK_JOB_ERROR");
        for member in [
            format!(r#""operation": "{operation}""#),
            format!(r#""action": "{action}""#),
        ] {
            assert!(event.contains(&member), "{event}");
        }
        if action == "stop" {
            listener.status("paused");
            let jobs = listener.ask("query-block-jobs", "");
            assert!(!jobs.contains(r#""io-status": "ok""#), "{jobs}");
            listener.done("job-resume", r#""id":"c""#);
        }
        let completed = listener.wait("BLOCK_JOB_COMPLETED");
        assert_eq!(
            completed.contains("error"),
            action == "report",
            "{completed}"
        );
        listener.status("concluded");
        drop(listener);
        server.stop();
        let info = qemu_img(directory.path(), &["info", "top.qcow2"]);
        let name = if action == "report" {
            "high.qcow2"
        } else {
            "base.raw"
        };
        assert!(info.contains(&format!("backing file: {name}")), "{info}");
    }
}

#[test]
fn a_disk_goes_into_its_own_base_which_takes_its_place() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let directory = TestDir::new();
    chain(&directory);
    let before = content(directory.path(), "top.qcow2");
    let mut server = Server::start_line(&directory, DISK);
    let mut listener = Listener::new(&server);
    let over = Over::default();
    thread::scope(|scope| {
        let end = over.when_dropped();
        let guest = scope.spawn(|| work(&directory, || over.is_set()));
        let slow = r#""device":"top","job-id":"c","speed":65536"#;
        listener.done("block-commit", slow);
        assert_writable(&mut listener, 4);
        listener.done("job-cancel", r#""id":"c""#);
        listener.wait("BLOCK_JOB_CANCELLED");
        listener.status("null");
        assert_writable(&mut listener, 2);
        let whole = r#""device":"top","job-id":"c""#;
        listener.done("block-commit", whole);
        listener.wait("BLOCK_JOB_READY");
        // It ends well, and the disk stays what it is.
        listener.done("block-job-cancel", r#""device":"c""#);
        listener.wait("BLOCK_JOB_COMPLETED");
        listener.status("null");
        assert_writable(&mut listener, 2);
        listener.done("block-commit", whole);
        listener.wait("BLOCK_JOB_READY");
        listener.done("job-complete", r#""id":"c""#);
        let completed = listener.wait("BLOCK_JOB_COMPLETED");
        assert!(!completed.contains("error"), "{completed}");
        listener.status("null");
        drop(end);
        guest.join().unwrap();
    });
    assert_eq!(server.number("/machine/peripheral/disk.errors"), 0);
    // The guest writes to the base alone.
    work(&directory, || true);
    drop(listener);
    server.stop();
    let after = fs::read(directory.file("base.raw")).unwrap();
    assert!(after.len() == SIZE && after[WRITTEN..] == before[WRITTEN..]);
    for name in ["low.qcow2", "high.qcow2", "top.qcow2"] {
        check(directory.path(), name, false);
    }
}
