//! `block-stream` while a guest works: the image gets what its backing files have, no byte of the guest is lost, and the files are
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

/// A base with data, holes and zeroes, an image in the middle with a guest's data, and an empty one on top.
fn chain(directory: &TestDir) {
    let mut random = Random(3);
    let mut bytes = vec![0; SIZE];
    for part in bytes.chunks_mut(192 << 10).step_by(2) {
        part.fill_with(|| random.number().to_le_bytes()[0]);
    }
    fs::write(directory.file("base.raw"), &bytes).unwrap();
    overlay(directory.path(), "mid.qcow2", "base.raw", "raw");
    let line = "-drive if=none,id=mid,file=mid.qcow2,format=qcow2 \
        -device virtio-blk,id=disk,drive=mid,num-queues=2,vhost-user=d.sock";
    let mut server = Server::start_line(directory, line);
    work(directory, || true);
    server.stop();
    overlay(directory.path(), "top.qcow2", "mid.qcow2", "qcow2");
}

/// Reads and writes the first part of the disk, and checks what was read, until `is_over`; once at least.
fn work(directory: &TestDir, is_over: impl Fn() -> bool) {
    let socket = directory.socket("d.sock");
    let mut guest = Guest::connect(&socket, 2, 128, true, LOAD.memory(2)).unwrap();
    let mut random = Random(11);
    LOAD.run_until(&mut guest, &mut random, is_over);
}

const NODES: &str = "-object qcontext,id=ctx,threaded=on \
    -blockdev qcow2,node-name=top,file.driver=file,file.filename=top.qcow2,backing.driver=qcow2,backing.node-name=mid,backing.file.driver=file,backing.file.filename=mid.qcow2,backing.backing.driver=raw,backing.backing.node-name=base,backing.backing.file.driver=file,backing.backing.file.filename=base.raw \
    -device virtio-blk,id=disk,drive=top,num-queues=2,x-data-plane=on,context=ctx,vhost-user=d.sock";

#[test]
fn an_image_gets_the_data_of_its_backing_files_while_a_guest_works() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let directory = TestDir::new();
    chain(&directory);
    let before = content(directory.path(), "top.qcow2");
    let mut server = Server::start_line(&directory, NODES);
    let mut listener = Listener::new(&server);
    let over = Over::default();
    thread::scope(|scope| {
        let end = over.when_dropped();
        let guest = scope.spawn(|| work(&directory, || over.is_set()));
        // It is slow until it has another limit, so it can be paused and cancelled.
        let slow = r#""device":"top","job-id":"s","base-node":"base","speed":65536"#;
        listener.done("block-stream", slow);
        listener.done("job-pause", r#""id":"s""#);
        listener.status("paused");
        listener.done("job-resume", r#""id":"s""#);
        listener.status("running");
        listener.done("job-cancel", r#""id":"s""#);
        listener.wait("BLOCK_JOB_CANCELLED");
        listener.status("null");
        listener.done("block-stream", slow);
        let busy = listener.ask("block-stream", r#""device":"top","job-id":"s2""#);
        let expected = "Node 'top' is busy: block device is in use by block job: stream";
        assert!(busy.contains(expected), "{busy}");
        listener.done("block-job-set-speed", r#""device":"s","speed":0"#);
        listener.wait("BLOCK_JOB_COMPLETED");
        listener.status("null");
        let middle = qemu_img(directory.path(), &["info", "-U", "top.qcow2"]);
        assert!(middle.contains("backing file: base.raw"), "{middle}");
        let whole = r#""device":"top","job-id":"s","auto-finalize":false,"auto-dismiss":false"#;
        listener.done("block-stream", whole);
        listener.wait("BLOCK_JOB_PENDING");
        listener.done("job-finalize", r#""id":"s""#);
        let completed = listener.wait("BLOCK_JOB_COMPLETED");
        assert!(!completed.contains("error"), "{completed}");
        listener.status("concluded");
        listener.done("job-dismiss", r#""id":"s""#);
        drop(end);
        guest.join().unwrap();
    });
    assert_eq!(server.number("/machine/peripheral/disk.errors"), 0);
    let nodes = listener.ask("query-named-block-nodes", "");
    assert!(!nodes.contains("mid.qcow2"), "{nodes}");
    drop(listener);
    server.stop();
    check(directory.path(), "top.qcow2", false);
    fs::remove_file(directory.file("mid.qcow2")).unwrap();
    fs::remove_file(directory.file("base.raw")).unwrap();
    let after = content(directory.path(), "top.qcow2");
    // The guest has checked what it has written.
    assert!(after.len() == SIZE && after[MIB..] == before[MIB..]);
}

#[test]
fn a_kill_at_any_time_leaves_all_images_good() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let mut random = Random(23);
    for round in 0..4 {
        let directory = TestDir::new();
        chain(&directory);
        let base = fs::read(directory.file("base.raw")).unwrap();
        let before = content(directory.path(), "top.qcow2");
        let mut server = Server::start_line(&directory, NODES);
        let mut listener = Listener::new(&server);
        let whole = r#""device":"top","job-id":"s","auto-dismiss":false"#;
        listener.done("block-stream", whole);
        for _ in 0..random.index(40) {
            listener.ask("query-jobs", "");
        }
        server.signal("KILL");
        server.wait();
        wait_unlocked(directory.path(), "top.qcow2");
        check(directory.path(), "mid.qcow2", false);
        check(directory.path(), "top.qcow2", true);
        assert!(fs::read(directory.file("base.raw")).unwrap() == base);
        let after = content(directory.path(), "top.qcow2");
        assert!(after == before, "round {round}");
    }
}

/// A base that cannot be read once, at its third request.
const FAILING: &str = "-blockdev blkdebug,node-name=bad,image.driver=file,image.filename=base.raw,set-state.0.event=read_aio,set-state.0.state=1,set-state.0.new_state=2,set-state.1.event=read_aio,set-state.1.state=2,set-state.1.new_state=3,inject-error.0.event=read_aio,inject-error.0.state=3,inject-error.0.once=on \
    -blockdev qcow2,node-name=top,file.driver=file,file.filename=top.qcow2,backing=bad";

fn stream_over_failing_base(on_error: &str) -> (TestDir, Server, Listener) {
    let directory = TestDir::new();
    chain(&directory);
    overlay(directory.path(), "top.qcow2", "base.raw", "raw");
    let server = Server::start_line(&directory, FAILING);
    let mut listener = Listener::new(&server);
    let arguments =
        format!(r#""device":"top","job-id":"s","on-error":"{on_error}","auto-dismiss":false"#);
    listener.done("block-stream", &arguments);
    let event = listener.wait("BLOCK_JOB_ERROR");
    assert!(event.contains(r#""device": "s""#) && event.contains(r#""operation": "read""#));
    assert!(
        event.contains(&format!(r#""action": "{on_error}""#)),
        "{event}"
    );
    (directory, server, listener)
}

#[test]
fn a_failing_request_ends_the_job_or_stops_it_until_it_is_resumed() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    for on_error in ["report", "ignore"] {
        let (directory, server, mut listener) = stream_over_failing_base(on_error);
        let completed = listener.wait("BLOCK_JOB_COMPLETED");
        assert!(completed.contains("Input/output error"), "{completed}");
        listener.status("concluded");
        let info = qemu_img(directory.path(), &["info", "-U", "top.qcow2"]);
        assert!(info.contains("backing file: base.raw"), "{info}");
        drop(listener);
        drop(server);
    }
    let (directory, mut server, mut listener) = stream_over_failing_base("stop");
    listener.status("paused");
    let jobs = listener.ask("query-block-jobs", "");
    assert!(jobs.contains(r#""io-status": "failed""#), "{jobs}");
    listener.done("job-resume", r#""id":"s""#);
    let completed = listener.wait("BLOCK_JOB_COMPLETED");
    assert!(!completed.contains("error"), "{completed}");
    drop(listener);
    server.stop();
    let expected = fs::read(directory.file("base.raw")).unwrap();
    assert!(content(directory.path(), "top.qcow2") == expected);
}

#[test]
fn data_behind_a_filter_is_copied_as_well() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let directory = TestDir::new();
    chain(&directory);
    let before = content(directory.path(), "top.qcow2");
    let line = "-blockdev qcow2,node-name=top,file.driver=file,file.filename=top.qcow2,backing.driver=blkdebug,backing.image.driver=qcow2,backing.image.file.driver=file,backing.image.file.filename=mid.qcow2";
    let mut server = Server::start_line(&directory, line);
    let mut listener = Listener::new(&server);
    listener.done("block-stream", r#""device":"top","job-id":"s""#);
    listener.wait("BLOCK_JOB_COMPLETED");
    listener.status("null");
    drop(listener);
    server.stop();
    fs::remove_file(directory.file("mid.qcow2")).unwrap();
    assert!(content(directory.path(), "top.qcow2") == before);
}
