//! Snapshots of several disks at once while their guests work: no byte is lost, what was before stays as it was, and a snapshot of
//! which one part fails changes nothing.
//!
//! Needs `qemu-img`; the test says SKIP where that is not installed.
#![forbid(unsafe_code)]
#![cfg(all(feature = "vhost-user", feature = "monitor"))]
#![allow(clippy::unwrap_used)] // also in what tests call

use std::fs;
use std::thread;

use support::directory::TestDir;
use support::front_end::Guest;
use support::over::Over;
use support::qemu_img::{check, missing, qemu_img};
use support::qmp::{Client, generic, returns};
use support::random::Random;
use support::server::Server;
use support::skip::skip;
use support::workload::Workload;

const ROUNDS: usize = 4;
const LOAD: Workload = Workload {
    depth: 16,
    requests: 2000,
    keeps_data: true,
};

fn ask(client: &mut Client, command: &str, arguments: &str) -> String {
    client.ask(format!(
        r#"{{"execute":"{command}","arguments":{{{arguments}}}}}"#
    ))
}

/// Reads and writes, and checks what was read, until it is over.
fn work(directory: &TestDir, disk: usize, over: &Over) {
    let socket = directory.socket(&format!("d{disk}.sock"));
    let mut guest = Guest::connect(&socket, 2, 128, true, LOAD.memory(2)).unwrap();
    let mut random = Random(7 + disk as u64);
    while !over.is_set() {
        LOAD.run(&mut guest, &mut random);
    }
}

/// The name of a disk's image after so many snapshots.
fn image(disk: usize, round: usize) -> String {
    let kind = if round == 0 { "raw" } else { "qcow2" };
    format!("d{disk}r{round}.{kind}")
}

fn make_images(directory: &TestDir) {
    for disk in 0..2 {
        qemu_img(
            directory.path(),
            &["create", "-f", "raw", &image(disk, 0), "4M"],
        );
        for round in 1..=ROUNDS {
            let below = image(disk, round - 1);
            let format = if round == 1 { "raw" } else { "qcow2" };
            let name = image(disk, round);
            let arguments = ["create", "-f", "qcow2", "-b", &below, "-F", format, &name];
            qemu_img(directory.path(), &arguments);
        }
    }
}

fn action(node: &str, overlay: &str) -> String {
    format!(r#"{{"type":"blockdev-snapshot","data":{{"node":"{node}","overlay":"{overlay}"}}}}"#)
}

#[test]
fn two_disks_are_snapshotted_at_once_while_guests_work() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let directory = TestDir::new();
    make_images(&directory);
    let line = "-object qcontext,id=ctx0,threaded=on -object qcontext,id=ctx1,threaded=on \
        -blockdev raw,node-name=d0r0,file.driver=file,file.filename=d0r0.raw \
        -blockdev raw,node-name=d1r0,file.driver=file,file.filename=d1r0.raw \
        -device virtio-blk,id=disk0,drive=d0r0,num-queues=2,x-data-plane=on,context=ctx0,vhost-user=d0.sock \
        -device virtio-blk,id=disk1,drive=d1r0,num-queues=2,x-data-plane=on,context=ctx1,vhost-user=d1.sock";
    let mut server = Server::start(&directory, &line.split_whitespace().collect::<Vec<_>>());
    let mut client = server.client();
    let done = returns("{}");
    let over = Over::default();
    let mut kept = Vec::new();
    thread::scope(|scope| {
        let end = over.when_dropped();
        let guests = [0, 1].map(|disk| {
            let (directory, over) = (&directory, &over);
            scope.spawn(move || work(directory, disk, over))
        });
        for round in 1..=ROUNDS {
            let actions = [0, 1].map(|disk| {
                let options = format!(
                    r#""driver":"qcow2","node-name":"d{disk}r{round}","backing":null,"file":{{"driver":"file","filename":"{}"}}"#,
                    image(disk, round)
                );
                assert_eq!(ask(&mut client, "blockdev-add", &options), done);
                action(
                    &format!("d{disk}r{}", round - 1),
                    &format!("d{disk}r{round}"),
                )
            });
            let failing = format!(
                r#""actions":[{},{},{{"type":"abort","data":{{}}}}]"#,
                actions[0], actions[1]
            );
            assert_eq!(
                ask(&mut client, "transaction", &failing),
                generic("Transaction aborted using Abort action")
            );
            let both = format!(r#""actions":[{},{}]"#, actions[0], actions[1]);
            assert_eq!(ask(&mut client, "transaction", &both), done);
            if round == 1 {
                kept.extend([0, 1].map(|disk| fs::read(directory.file(&image(disk, 0))).unwrap()));
            }
        }
        drop(end);
        guests.into_iter().for_each(|guest| guest.join().unwrap());
    });
    for (disk, before) in kept.iter().enumerate() {
        let errors = format!("/machine/peripheral/disk{disk}.errors");
        assert_eq!(server.number(&errors), 0);
        assert!(fs::read(directory.file(&image(disk, 0))).unwrap() == *before);
    }
    drop(client);
    server.stop();
    for disk in 0..2 {
        for round in 1..=ROUNDS {
            check(directory.path(), &image(disk, round), false);
        }
    }
}

/// An action of `blockdev-snapshot-sync` for a disk.
fn sync_action(disk: usize, round: usize) -> String {
    let (before, file) = (round - 1, image(disk, round));
    format!(
        r#"{{"type":"blockdev-snapshot-sync","data":{{"node-name":"d{disk}r{before}","snapshot-file":"{file}","snapshot-node-name":"d{disk}r{round}"}}}}"#
    )
}

const DISKS: usize = 5;

/// The disks' images are made by the snapshots themselves.
#[test]
fn images_are_made_for_snapshots_of_several_disks_or_for_none() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let directory = TestDir::new();
    let mut line =
        "-object qcontext,id=ctx0,threaded=on -object qcontext,id=ctx1,threaded=on".to_owned();
    for disk in 0..DISKS {
        let file = image(disk, 0);
        qemu_img(directory.path(), &["create", "-f", "raw", &file, "4M"]);
        line += &format!(
            " -blockdev raw,node-name=d{disk}r0,file.driver=file,file.filename={file} \
            -device virtio-blk,id=disk{disk},drive=d{disk}r0,num-queues=2,x-data-plane=on,context=ctx{},vhost-user=d{disk}.sock",
            disk % 2
        );
    }
    let mut server = Server::start_line(&directory, &line);
    let mut client = server.client();
    let over = Over::default();
    thread::scope(|scope| {
        let end = over.when_dropped();
        let guests = [0, 1].map(|disk| {
            let (directory, over) = (&directory, &over);
            scope.spawn(move || work(directory, disk, over))
        });
        for round in 1..=2 {
            let mut actions: Vec<_> = (0..DISKS).map(|disk| sync_action(disk, round)).collect();
            let good = format!(r#""actions":[{}]"#, actions.join(","));
            // The third one names a disk that is not there.
            actions[2] = actions[2].replace("d2r", "nosuch");
            let failing = format!(r#""actions":[{}]"#, actions.join(","));
            assert_eq!(
                ask(&mut client, "transaction", &failing),
                generic(&format!(
                    "Cannot find device='' nor node-name='nosuch{}'",
                    round - 1
                ))
            );
            for disk in 0..DISKS {
                assert!(!directory.file(&image(disk, round)).exists());
            }
            assert_eq!(ask(&mut client, "transaction", &good), returns("{}"));
        }
        drop(end);
        guests.into_iter().for_each(|guest| guest.join().unwrap());
    });
    for disk in 0..DISKS {
        let errors = format!("/machine/peripheral/disk{disk}.errors");
        assert_eq!(server.number(&errors), 0);
    }
    drop(client);
    server.stop();
    for disk in 0..DISKS {
        for round in 1..=2 {
            check(directory.path(), &image(disk, round), false);
        }
        let info = qemu_img(
            directory.path(),
            &["info", "--backing-chain", &image(disk, 2)],
        );
        for below in [image(disk, 0), image(disk, 1)] {
            assert!(info.contains(&format!("backing file: {below}")), "{info}");
        }
    }
}

/// The name in an overlay leads to the disk from the overlay's folder.
#[test]
fn an_overlay_in_another_folder_finds_its_backing_file() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let directory = TestDir::new();
    qemu_img(directory.path(), &["create", "-f", "raw", "base.raw", "4M"]);
    fs::create_dir(directory.file("below")).unwrap();
    let line = "-blockdev raw,node-name=d,file.driver=file,file.filename=base.raw \
        -device virtio-blk,id=disk,drive=d,vhost-user=d0.sock";
    let mut server = Server::start_line(&directory, line);
    let mut client = server.client();
    for (node, file, name) in [("d", "o1.qcow2", "o1"), ("o1", "below/o2.qcow2", "o2")] {
        let arguments = format!(
            r#""node-name":"{node}","snapshot-file":"{file}","snapshot-node-name":"{name}""#
        );
        assert_eq!(
            ask(&mut client, "blockdev-snapshot-sync", &arguments),
            returns("{}")
        );
    }
    drop(client);
    server.stop();
    let info = qemu_img(
        directory.path(),
        &["info", "--backing-chain", "below/o2.qcow2"],
    );
    assert!(info.contains("backing file: base.raw"), "{info}");
}
