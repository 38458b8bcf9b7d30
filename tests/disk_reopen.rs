//! Nodes that are opened anew while guests work on two contexts: other options, other children, refusals; no request is lost, and
//! every byte is right.
//!
//! Needs `qemu-img`; the test says SKIP where that is not installed.
#![forbid(unsafe_code)]
#![cfg(all(feature = "vhost-user", feature = "monitor"))]
#![allow(clippy::unwrap_used)] // also in what tests call

use std::thread;

use support::directory::TestDir;
use support::front_end::Guest;
use support::qemu_img::{check, missing, qemu_img};
use support::qmp::{Client, generic, returns};
use support::random::Random;
use support::server::Server;
use support::skip::skip;
use support::workload::Workload;

const LOAD: Workload = Workload {
    depth: 16,
    requests: 6000,
    keeps_data: true,
};

fn reopen(client: &mut Client, options: &str) -> String {
    client.ask(format!(
        r#"{{"execute":"blockdev-reopen","arguments":{{"options":[{options}]}}}}"#
    ))
}

/// Reads and writes, and checks what was read.
fn work(directory: &TestDir, disk: usize) {
    let socket = directory.socket(&format!("d{disk}.sock"));
    let mut guest = Guest::connect(&socket, 2, 128, true, LOAD.memory(2)).unwrap();
    LOAD.run(&mut guest, &mut Random(7 + disk as u64));
}

#[test]
fn nodes_are_opened_anew_while_guests_on_two_contexts_work() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let directory = TestDir::new();
    for arguments in [
        ["create", "-f", "raw", "base.raw", "4M"].as_slice(),
        &[
            "create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "d0.qcow2",
        ],
        &["create", "-f", "raw", "d1.raw", "4M"],
    ] {
        qemu_img(directory.path(), arguments);
    }
    let line = "-object throttle-group,id=tg0 -object throttle-group,id=tg1 \
        -object qcontext,id=ctx0,threaded=on -object qcontext,id=ctx1,threaded=on \
        -blockdev throttle,node-name=t0,throttle-group=tg0,file.driver=qcow2,file.node-name=q0,file.file.driver=file,file.file.node-name=f0,file.file.filename=d0.qcow2 \
        -blockdev raw,node-name=other,file.driver=file,file.filename=base.raw,read-only=on \
        -blockdev file,node-name=f1,filename=d1.raw -blockdev raw,node-name=n1,file=f1 \
        -device virtio-blk,id=disk0,drive=t0,num-queues=2,x-data-plane=on,context=ctx0,vhost-user=d0.sock \
        -device virtio-blk,id=disk1,drive=n1,num-queues=2,x-data-plane=on,context=ctx1,vhost-user=d1.sock";
    let mut server = Server::start(&directory, &line.split_whitespace().collect::<Vec<_>>());
    let mut client = server.client();
    let done = returns("{}");
    let mut rounds = 0;
    thread::scope(|scope| {
        let guests = [0, 1].map(|disk| {
            let directory = &directory;
            scope.spawn(move || work(directory, disk))
        });
        while !guests.iter().all(thread::ScopedJoinHandle::is_finished) {
            let (group, discard) = [("tg0", "unmap"), ("tg1", "ignore")][rounds % 2];
            let throttle = format!(
                r#"{{"driver":"throttle","node-name":"t0","throttle-group":"{group}","file":"q0"}}"#
            );
            assert_eq!(reopen(&mut client, &throttle), done);
            // The first time the image's own node for its backing file is replaced.
            let qcow2 = format!(
                r#"{{"driver":"qcow2","node-name":"q0","file":"f0","backing":"other","discard":"{discard}"}}"#
            );
            let raw = format!(
                r#"{{"driver":"raw","node-name":"n1","file":"f1","discard":"{discard}"}},{{"driver":"file","node-name":"f1","filename":"d1.raw","cache":{{"direct":{}}}}}"#,
                rounds % 2 == 0
            );
            assert_eq!(reopen(&mut client, &format!("{raw},{qcow2}")), done);
            let writer = generic("Block node is read-only");
            let read_only = r#"{"driver":"raw","node-name":"n1","file":"f1","read-only":true}"#;
            assert_eq!(reopen(&mut client, &format!("{qcow2},{read_only}")), writer);
            rounds += 1;
        }
        guests.into_iter().for_each(|guest| guest.join().unwrap());
    });
    assert!(rounds > 3, "{rounds} rounds");
    for disk in 0..2 {
        assert_eq!(
            server.number(&format!("/machine/peripheral/disk{disk}.errors")),
            0
        );
    }
    drop(client);
    server.stop();
    check(directory.path(), "d0.qcow2", false);
}

/// The answer to a command, without the events before it.
fn ask(client: &mut Client, command: &str, arguments: &str) -> String {
    client.send(format!(r#"{{"execute":"{command}","arguments":{{{arguments}}}}}"#).as_bytes());
    loop {
        let line = client.line();
        if !line.contains(r#""event": "#) {
            return line;
        }
    }
}

#[test]
fn images_of_drives_are_opened_anew_streamed_into_and_snapshotted() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let directory = TestDir::new();
    for arguments in [
        ["create", "-f", "raw", "base.raw", "4M"].as_slice(),
        &[
            "create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "d0.qcow2",
        ],
        &["create", "-f", "qcow2", "d1.qcow2", "4M"],
        &["create", "-f", "qcow2", "over.qcow2", "4M"],
    ] {
        qemu_img(directory.path(), arguments);
    }
    let line = "-object qcontext,id=ctx0,threaded=on -object qcontext,id=ctx1,threaded=on \
        -drive if=none,id=d0,file=d0.qcow2,format=qcow2,cache=writethrough,discard=unmap \
        -drive if=none,id=d1,file=d1.qcow2,format=qcow2,cache=none,throttling.iops-total=100000,copy-on-read=on \
        -device virtio-blk,id=disk0,drive=d0,num-queues=2,x-data-plane=on,context=ctx0,vhost-user=d0.sock \
        -device virtio-blk,id=disk1,drive=d1,num-queues=2,x-data-plane=on,context=ctx1,vhost-user=d1.sock";
    let mut server = Server::start(&directory, &line.split_whitespace().collect::<Vec<_>>());
    let mut client = server.client();
    let done = returns("{}");
    thread::scope(|scope| {
        let guests = [0, 1].map(|disk| {
            let directory = &directory;
            scope.spawn(move || work(directory, disk))
        });
        let described = r#""driver":"qcow2","node-name":"d0","file":{"driver":"file","filename":"d0.qcow2","discard":"unmap"}"#;
        let backing = r#""backing":{"driver":"raw","node-name":"low","file":{"driver":"file","filename":"base.raw"}}"#;
        for discard in ["ignore", "unmap"] {
            // The file named by the image is not one that options describe.
            let anew = reopen(&mut client, &format!(r#"{{{described},{backing}}}"#));
            assert_eq!(anew, generic("Cannot change the option 'backing.driver'"));
            let without = reopen(
                &mut client,
                &format!(r#"{{{described},"discard":"{discard}"}}"#),
            );
            assert_eq!(without, generic("backing is missing for 'd0'"));
        }
        let stream = ask(
            &mut client,
            "block-stream",
            r#""device":"d0","job-id":"s","auto-dismiss":true"#,
        );
        assert_eq!(stream, done);
        while ask(&mut client, "query-jobs", "") != returns("[]") {}
        for discard in ["ignore", "unmap"] {
            let anew = format!(
                r#"{{{described},"backing":null,"discard":"{discard}","cache":{{"direct":true}}}}"#
            );
            assert_eq!(reopen(&mut client, &anew), done);
        }
        let overlay = r#""driver":"qcow2","node-name":"over","backing":null,"file":{"driver":"file","filename":"over.qcow2"}"#;
        assert_eq!(ask(&mut client, "blockdev-add", overlay), done);
        let snapshot = ask(
            &mut client,
            "blockdev-snapshot",
            r#""node":"d0","overlay":"over""#,
        );
        assert_eq!(snapshot, done);
        guests.into_iter().for_each(|guest| guest.join().unwrap());
    });
    for disk in 0..2 {
        let errors = server.number(&format!("/machine/peripheral/disk{disk}.errors"));
        assert_eq!(errors, 0);
    }
    drop(client);
    server.stop();
    for image in ["d0.qcow2", "d1.qcow2", "over.qcow2"] {
        check(directory.path(), image, false);
    }
}
