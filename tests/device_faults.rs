//! What those who run the host learn when a device does not serve its guest, or a request fails: a line of the log, an event of
//! the monitor, properties of the device. Guests and front ends can cause any number of failures, so lines and events are few.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "vhost-user"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use support::deadline::wait_for;
use support::directory::TestDir;
use support::front_end::{Guest, Io};
use support::qmp::Client;
use support::raw_front_end::{self, FrontEnd, Raw, eventfd, memory, pair, write_requests};
use support::seccomp::{Penalty, forbid};
use support::server::Server;
use support::skip::skip;

const LOG: &str = "log";
/// Starts the program with its standard error in a file.
const LOGGING: [&str; 3] = ["sh", "-c", "exec \"$0\" \"$@\" 2>log"];
const NULL: [&str; 4] = [
    "-blockdev",
    "driver=null-co,node-name=n0,size=1M",
    "-device",
    "virtio-blk,id=disk0,drive=n0,vhost-user=disk0.sock",
];
const FILE: [&str; 4] = [
    "-drive",
    "if=none,id=d0,file=disk0.raw,format=raw,aio=threads,werror=report,rerror=stop",
    "-device",
    "virtio-blk,id=disk0,drive=d0,vhost-user=disk0.sock",
];

/// A server in a directory, and a client that has seen nothing yet.
struct Scene {
    directory: TestDir,
    server: Server,
    client: Client,
}

impl Scene {
    fn new(arguments: &[&str]) -> Scene {
        let directory = TestDir::new();
        directory.image("disk0.raw", 1);
        let server = Server::start_under(&directory, &LOGGING, arguments);
        let client = server.client();
        Scene {
            directory,
            server,
            client,
        }
    }

    /// Lines of the log about the device.
    fn lines(&self) -> Vec<String> {
        let log = fs::read_to_string(self.directory.file(LOG)).unwrap();
        let lines = log.lines();
        lines
            .filter_map(|line| Some(line[line.find("device 'disk0'")?..].to_owned()))
            .collect()
    }

    /// The name and the data of the next event.
    #[track_caller]
    fn event(&mut self) -> String {
        let line = self.client.line();
        let from = line.find("\"event\"").unwrap();
        line[from..].to_owned()
    }

    fn property(&self, name: &str) -> String {
        let path = format!("/machine/peripheral/disk0.{name}");
        self.server.subcommand(&["qom-get", &path])
    }

    fn guest(&self) -> Guest {
        Guest::connect(&self.directory.socket("disk0.sock"), 1, 64, true, 4096).unwrap()
    }
}

/// What the event DEVICE_FAULT says of the device.
fn device_fault(queue: Option<u16>, reason: &str) -> String {
    let queue = queue.map_or(String::new(), |queue| format!("\"queue\": {queue}, "));
    format!(
        r#""event": "DEVICE_FAULT", "data": {{"device": "disk0", "path": "/machine/peripheral/disk0", {queue}"reason": "{reason}"}}}}"#
    )
}

fn write(offset: u64) -> Io {
    Io {
        write: true,
        offset,
        segments: vec![(0, 512)],
    }
}

#[test]
fn descriptor_into_memory_that_is_not_shared_is_seen_on_the_host() {
    let mut scene = Scene::new(&NULL);
    let shared = memory();
    let guest = File::from(shared.try_clone().unwrap());
    write_requests(&guest, 1);
    // The data of the first request is beyond the memory that the front end shares.
    guest
        .write_all_at(&0x7_0000_0000_u64.to_le_bytes(), 0x1000 + 16)
        .unwrap();
    let (kick, call) = (eventfd(), eventfd());
    let socket = scene.directory.socket("disk0.sock");
    let _front_end = FrontEnd::running(&socket, shared, kick, call);
    let reason = "buffer outside of the guest's memory";
    assert_eq!(scene.event(), device_fault(Some(0), reason));
    let fault = format!("queue 0 is broken: {reason}");
    assert_eq!(scene.property("fault"), fault);
    assert_eq!(scene.lines(), [format!("device 'disk0': {fault}")]);
}

/// An export is no object, so it has no path.
#[test]
fn an_export_is_named_as_one() {
    let mut scene = Scene::new(&[
        "-blockdev",
        "driver=null-co,node-name=n0,size=1M",
        "-blockdev",
        "driver=blkdebug,node-name=b0,image=n0,inject-error.0.event=read_aio,inject-error.0.errno=61",
        "-export",
        "vhost-user-blk,id=out,node-name=b0,addr.type=unix,addr.path=disk0.sock",
    ]);
    let mut guest = scene.guest();
    let read = Io {
        write: false,
        ..write(4096)
    };
    assert_ne!(guest.run(0, &read), 0);
    let failed = concat!(
        r#""event": "BLOCK_IO_ERROR", "data": {"qom-path": "", "device": "", "node-name": "b0", "#,
        r#""operation": "read", "action": "report", "reason": "No data available"}}"#
    );
    assert_eq!(scene.event(), failed);
    drop(guest);
    let front_end = FrontEnd::connect(&scene.directory.socket("disk0.sock"));
    front_end.send(&Raw::new(raw_front_end::SET_VRING_NUM, pair(7, 64), None));
    assert!(!front_end.is_served());
    let reason = "vhost-user: ended the connection: SetVringNum names queue 7, the device has 1";
    let fault =
        format!(r#""event": "DEVICE_FAULT", "data": {{"export": "out", "reason": "{reason}"}}}}"#);
    assert_eq!(scene.event(), fault);
    let log = fs::read_to_string(scene.directory.file(LOG)).unwrap();
    assert!(log.contains(&format!("export 'out': {reason}")), "{log}");
}

#[test]
fn refused_message_is_seen_on_the_host() {
    let mut scene = Scene::new(&NULL);
    let front_end = FrontEnd::connect(&scene.directory.socket("disk0.sock"));
    front_end.send(&Raw::new(raw_front_end::SET_VRING_NUM, pair(7, 64), None));
    assert!(!front_end.is_served());
    let reason = "vhost-user: ended the connection: SetVringNum names queue 7, the device has 1";
    assert_eq!(scene.event(), device_fault(None, reason));
    assert_eq!(scene.property("fault"), reason);
    assert_eq!(scene.lines(), [format!("device 'disk0': {reason}")]);
}

#[test]
fn second_front_end_that_waits_is_seen_on_the_host() {
    let mut scene = Scene::new(&NULL);
    let mut first = scene.guest();
    let _second = FrontEnd::connect(&scene.directory.socket("disk0.sock"));
    let reason = "vhost-user: another front end waits until the present one has disconnected and its requests are finished";
    assert_eq!(scene.event(), device_fault(None, reason));
    assert_eq!(first.run(0, &write(0)), 0);
}

/// A program whose writes to a file fail as on a full disk.
#[test]
fn full_disk_is_seen_on_the_host() {
    const FAILURES: usize = 56;
    let calls = [libc::SYS_pwrite64, libc::SYS_pwritev, libc::SYS_pwritev2];
    let started = std::thread::scope(|scope| {
        let start = || forbid(&calls, Penalty::Errno(libc::ENOSPC)).map(|()| Scene::new(&FILE));
        scope.spawn(start).join().unwrap()
    });
    let mut scene = match started {
        Ok(scene) => scene,
        Err(error) => return skip(format!("seccomp: {error}")),
    };
    let mut guest = scene.guest();
    for index in 0..FAILURES {
        assert_ne!(guest.run(0, &write(index as u64 * 512)), 0);
    }
    let expected = concat!(
        r#""event": "BLOCK_IO_ERROR", "data": {"qom-path": "/machine/peripheral/disk0", "device": "d0", "#,
        r#""node-name": "d0", "operation": "write", "action": "report", "nospace": true, "reason": "No space left on device"}}"#
    );
    // The first one at once, the last one at the end of the second.
    assert_eq!([scene.event(), scene.event()], [expected; 2]);
    assert_eq!(scene.property("errors"), FAILURES.to_string());
    let counts = format!("{{\"ENOSPC\": {FAILURES}}}");
    assert_eq!(scene.property("errors-by-errno"), counts);
    let line = |offset: usize, more: &str| {
        let what = format!("write of 512 bytes at {offset} of drive 'd0' failed");
        format!("device 'disk0': queue 0: {what}: No space left on device{more}")
    };
    let last = (FAILURES - 1) * 512;
    let suppressed = format!(" ({} more before it)", FAILURES - 2);
    assert_eq!(scene.lines(), [line(0, ""), line(last, &suppressed)]);
    // A request is no fault of the device.
    assert_eq!(scene.property("fault"), "");
}

#[test]
fn failed_read_of_a_node_is_seen_on_the_host_with_the_name_of_the_node() {
    let mut scene = Scene::new(&[
        "-blockdev",
        "driver=null-co,node-name=n0,size=1M",
        "-blockdev",
        "driver=blkdebug,node-name=b0,image=n0,inject-error.0.event=read_aio,inject-error.0.errno=61",
        "-device",
        "virtio-blk,id=disk0,drive=b0,vhost-user=disk0.sock",
    ]);
    let mut guest = scene.guest();
    let read = Io {
        write: false,
        ..write(4096)
    };
    assert_ne!(guest.run(0, &read), 0);
    let expected = concat!(
        r#""event": "BLOCK_IO_ERROR", "data": {"qom-path": "/machine/peripheral/disk0", "device": "", "#,
        r#""node-name": "b0", "operation": "read", "action": "report", "nospace": false, "#,
        r#""reason": "No data available"}}"#
    );
    assert_eq!(scene.event(), expected);
    assert_eq!(scene.property("errors-by-errno"), "{\"ENODATA\": 1}");
}

#[test]
fn request_that_the_disk_does_not_have_is_counted_without_an_event() {
    let mut scene = Scene::new(&NULL);
    let mut guest = scene.guest();
    assert_ne!(guest.run(0, &write(1 << 30)), 0);
    let line = "device 'disk0': queue 0: write of 512 bytes at 1073741824 of drive 'n0' failed: Invalid argument";
    wait_for("the line", || (scene.lines() == [line]).then_some(()));
    assert_eq!(scene.property("errors-by-errno"), "{\"EINVAL\": 1}");
    // The next thing that the client hears of is something else.
    let answer = scene.client.ask(r#"{"execute":"query-iothreads"}"#);
    assert_eq!(answer, r#"{"return": []}"#);
}

#[test]
fn failures_that_are_held_back_are_shown_when_the_device_goes() {
    let mut scene = Scene::new(&NULL);
    let mut guest = scene.guest();
    for _ in 0..3 {
        assert_ne!(guest.run(0, &write(1 << 30)), 0);
    }
    drop(guest);
    let request = br#"{"execute":"device_del","arguments":{"id":"disk0"}}"#;
    scene.client.send(request);
    assert!(scene.event().contains("DEVICE_DELETED"));
    let lines = scene.lines();
    assert!(
        lines.last().unwrap().ends_with("(1 more before it)"),
        "{lines:?}"
    );
    assert_eq!(lines.len(), 2);
}
