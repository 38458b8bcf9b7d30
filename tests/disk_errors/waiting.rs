//! What else may happen while a request waits: the graph changes, queues stop, front ends come and go, and all ends.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;

use support::deadline::wait_for;
use support::host_storage::FileSystem;
use support::qemu_img::{self, qemu_img};
use support::random::Random;
use support::raw_front_end::{
    self, FrontEnd, Raw, eventfd, memory, pair, used_index, write_requests,
};
use support::skip::skip;
use support::workload::Workload;

use super::*;

/// A write that waits keeps nobody from changing the graph; it goes to what the disk is then.
#[test]
fn nodes_change_while_a_request_waits() {
    if let Some(reason) = qemu_img::missing() {
        return skip(reason);
    }
    for setting in [SETTINGS[0], SETTINGS[3]] {
        let mut scene = Scene::new(setting, &[Rule::once("write", libc::ENOSPC)], "");
        let backing = [
            "create",
            "-f",
            "qcow2",
            "-b",
            "disk0.raw",
            "-F",
            "raw",
            "top.qcow2",
            "2M",
        ];
        qemu_img(scene.directory.path(), &backing);
        let mut guest = scene.guest();
        submit(&mut guest, 0, &io(true, 7));
        scene.failed("write", "stop", Some(true), NO_SPACE);
        scene.command("block_resize", r#""node-name":"b0","size":2097152"#);
        assert_eq!(guest.capacity(), 2 << 20);
        let reopened = r#""options":[{"driver":"file","node-name":"f0","filename":"disk0.raw","cache":{"direct":true}}]"#;
        scene.command("blockdev-reopen", reopened);
        let overlay = r#""driver":"qcow2","node-name":"top","backing":null,"file":{"driver":"file","filename":"top.qcow2"}"#;
        scene.command("blockdev-add", overlay);
        scene.command("blockdev-snapshot", r#""node":"b0","overlay":"top""#);
        assert!(is_silent(&mut guest, 0));
        scene.goes_on();
        assert_eq!(guest.wait(0), [(0, 0)]);
        assert_eq!(guest.run(0, &io(false, 7)), 0);
        assert_eq!(guest.memory.bytes()[7 * BLOCK], 8);
        assert_eq!(scene.block(7), 0, "it is in the overlay");
    }
}

/// The event has the id of the drive, which is what a user has named.
#[test]
fn a_drive_keeps_its_name_when_an_overlay_takes_its_place() {
    if let Some(reason) = qemu_img::missing() {
        return skip(reason);
    }
    let directory = TestDir::new();
    directory.image("disk0.raw", 1);
    qemu_img(
        directory.path(),
        &["create", "-f", "qcow2", "top.qcow2", "1M"],
    );
    let drive = "if=none,id=b0,file=disk0.raw,format=raw";
    let mut scene = Scene::of(SETTINGS[0], directory, &["-drive", drive], "");
    let rule = Rule::once("write", libc::ENOSPC).json();
    let overlay = format!(
        r#""driver":"qcow2","node-name":"top","backing":null,"file":{{"driver":"blkdebug","inject-error":[{rule}],
            "image":{{"driver":"file","filename":"top.qcow2"}}}}"#
    );
    scene.command("blockdev-add", &overlay);
    scene.command("blockdev-snapshot", r#""node":"b0","overlay":"top""#);
    let mut guest = scene.guest();
    submit(&mut guest, 0, &io(true, 7));
    let event = scene.client.line();
    let names = r#""device": "b0", "node-name": "top""#;
    assert!(event.contains(names), "{event}");
    scene.goes_on();
    assert_eq!(guest.wait(0), [(0, 0)]);
    assert_eq!(guest.run(0, &io(false, 7)), 0);
    assert_eq!(guest.memory.bytes()[7 * BLOCK], 8);
}

#[test]
fn a_shorter_disk_does_not_have_the_request_any_more() {
    let mut scene = Scene::new(SETTINGS[0], &[Rule::once("write", libc::ENOSPC)], "");
    let mut guest = scene.guest();
    submit(&mut guest, 0, &io(true, 63));
    scene.failed("write", "stop", Some(true), NO_SPACE);
    scene.command("block_resize", r#""node-name":"b0","size":65536"#);
    scene.goes_on();
    assert_ne!(guest.wait(0)[0].1, 0);
}

/// All the time some requests fail, others are under way, and somebody lets the device go on.
#[test]
fn a_busy_disk_whose_requests_fail_now_and_then_loses_nothing() {
    const LOAD: Workload = Workload {
        depth: 8,
        requests: 2000,
        keeps_data: true,
    };
    for setting in SETTINGS {
        let mut random = Random(setting.1 as u64);
        let rules: Vec<Rule> = (0..200)
            .map(|number| Rule {
                block: Some(random.index(LOAD.depth * 8)),
                immediately: number % 3 == 0,
                ..Rule::once(["read", "write"][number % 2], libc::ENOSPC)
            })
            .collect();
        let mut scene = Scene::new(setting, &rules, ",rerror=stop,werror=stop");
        let socket = scene.directory.socket("disk0.sock");
        let work = thread::spawn(move || {
            let memory = LOAD.memory(setting.1);
            let mut guest = Guest::connect(&socket, setting.1, 128, true, memory).unwrap();
            LOAD.run(&mut guest, &mut Random(5));
        });
        while !work.is_finished() {
            scene.client.send(br#"{"execute":"cont"}"#);
            while !scene.client.line().contains("\"return\"") {}
        }
        work.join().unwrap();
        let errors: u32 = scene.property("errors").parse().unwrap();
        assert!(errors > 100, "{errors}");
    }
}

/// A front end that stops the queue gets an error for the guest, because it waits for all requests.
#[test]
fn a_queue_that_stops_answers_what_waits_with_an_error() {
    let mut scene = Scene::new(
        SETTINGS[0],
        &[Rule::once("read", libc::EIO)],
        ",rerror=stop",
    );
    let shared = memory();
    let ram = File::from(shared.try_clone().unwrap());
    write_requests(&ram, 1);
    let socket = scene.directory.socket("disk0.sock");
    let front_end = FrontEnd::running(&socket, shared, eventfd(), eventfd());
    scene.failed("read", "stop", Some(false), "Input/output error");
    assert_eq!(used_index(&ram), 0);
    let base = front_end.ask(&Raw::new(raw_front_end::GET_VRING_BASE, pair(0, 0), None));
    assert_eq!((base, used_index(&ram)), (Some(1 << 32), 1));
    let mut status = [0];
    ram.read_exact_at(&mut status, 0x10000 + 1024).unwrap();
    assert_eq!(status, [1]);
    // The device is still held: a queue that starts again serves nothing before `cont`.
    write_requests(&ram, 2);
    for message in FrontEnd::queue(eventfd(), eventfd()) {
        let is_base = message.request == raw_front_end::SET_VRING_BASE;
        let at_one = Raw::new(raw_front_end::SET_VRING_BASE, pair(0, 1), None);
        front_end.send(if is_base { &at_one } else { &message });
    }
    assert!(front_end.is_served());
    scene.status_is("failed");
    assert_eq!(used_index(&ram), 1);
    scene.goes_on();
    wait_for("the second request", || {
        (used_index(&ram) == 2).then_some(())
    });
}

#[test]
fn a_front_end_that_comes_after_one_that_went_waits_for_cont() {
    for setting in SETTINGS {
        let mut scene = Scene::new(setting, &[Rule::once("write", libc::ENOSPC)], "");
        let mut guest = scene.guest();
        submit(&mut guest, 0, &io(true, 1));
        scene.failed("write", "stop", Some(true), NO_SPACE);
        drop(guest);
        let mut next = scene.guest();
        submit(&mut next, 0, &io(true, 2));
        scene.status_is("nospace");
        assert!(is_silent(&mut next, 0));
        scene.goes_on();
        assert_eq!(next.wait(0), [(0, 0)]);
        assert_eq!(
            [1, 2].map(|block| scene.block(block)),
            [0, 3],
            "the first one went with its guest"
        );
    }
}

#[test]
fn devices_and_programs_end_while_a_request_waits() {
    for setting in SETTINGS {
        for ending in [r#""device_del","arguments":{"id":"disk0"}"#, r#""quit""#] {
            let mut scene = Scene::new(setting, &[Rule::once("write", libc::ENOSPC)], "");
            let mut guest = scene.guest();
            submit(&mut guest, 0, &io(true, 1));
            scene.failed("write", "stop", Some(true), NO_SPACE);
            scene
                .client
                .send(format!("{{\"execute\":{ending}}}").as_bytes());
            if ending == r#""quit""# {
                assert_eq!(scene.client.line(), returns("{}"));
                assert!(scene.server.wait().success());
            } else {
                assert!(scene.client.line().contains("DEVICE_DELETED"));
                assert_eq!(scene.client.line(), returns("{}"));
                assert!(scene.server.quit().success());
            }
        }
    }
}

/// Fills a file system with a file, but for so many bytes.
fn fill(path: &Path, left: u64) {
    let mut file = File::create(path).unwrap();
    while file.write_all(&[1; BLOCK]).is_ok() {}
    let length = file.metadata().unwrap().len();
    file.set_len(length - left).unwrap();
}

/// A file system that is really full, and then is not any more.
#[test]
fn a_full_file_system_stops_the_device_until_there_is_space() {
    if let Some(reason) = qemu_img::missing() {
        return skip(reason);
    }
    for (format, setting) in [
        ("raw", SETTINGS[0]),
        ("qcow2", SETTINGS[3]),
        ("qcow2", SETTINGS[0]),
    ] {
        let disk = match FileSystem::in_memory(2) {
            Ok(disk) => disk,
            Err(reason) => return skip(reason),
        };
        let (image, filler) = (disk.file("image"), disk.file("filler"));
        let path = image.to_str().unwrap();
        let directory = TestDir::new();
        qemu_img(directory.path(), &["create", "-f", format, path, "1M"]);
        fill(&filler, 64 << 10);
        let node = format!("{format},node-name=b0,file.driver=file,file.filename={path}");
        let mut scene = Scene::of(setting, directory, &["-blockdev", &node], "");
        let mut guest = scene.guest();
        let mut answers = Vec::new();
        for number in 0..60 {
            let mut write = io(true, number);
            // Each in a cluster of its own, or nearly.
            write.offset = number as u64 * 4 * BLOCK as u64;
            guest.submit(0, number, &write);
        }
        guest.kick(0);
        scene.failed("write", "stop", Some(true), NO_SPACE);
        assert_eq!(scene.property("io-status"), "nospace");
        fs::remove_file(&filler).unwrap();
        // More of them fail, and are told, before there is space; each of these stops the device anew.
        while answers.len() < 60 {
            scene.client.send(br#"{"execute":"cont"}"#);
            while !scene.client.line().contains("\"return\"") {}
            answers.extend(guest.try_wait(0, Duration::from_millis(500)));
        }
        assert!(
            answers.iter().all(|(_, result)| *result == 0),
            "{format}: {answers:?}"
        );
        assert_eq!(guest.flush(0), 0);
        drop(guest);
        let folder = scene.directory;
        assert!(scene.server.quit().success());
        if format == "qcow2" {
            qemu_img::check(folder.path(), path, false);
        }
        let content = qemu_img::content(folder.path(), path);
        for number in 0..60 {
            let block = &content[number * 4 * BLOCK..][..BLOCK];
            assert!(
                block.iter().all(|byte| usize::from(*byte) == number + 1),
                "{format} {number}"
            );
        }
    }
}
