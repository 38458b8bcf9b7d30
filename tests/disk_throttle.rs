//! Disks whose requests wait for a throttle group, as users make them: by `-object`, `-blockdev` and `throttling.*`, changed over
//! QMP while a guest works.
#![forbid(unsafe_code)]
#![cfg(all(feature = "vhost-user", feature = "monitor"))]
#![allow(clippy::unwrap_used)] // also in what tests call

use std::time::{Duration, Instant};

use support::directory::TestDir;
use support::front_end::{Guest, Io};
use support::qmp::{generic, returns};
use support::server::Server;

const READ: Io = Io {
    write: false,
    offset: 0,
    segments: Vec::new(),
};

/// A server with two disks in the group `tg0`, each on a context of its own.
fn two_disks(directory: &TestDir, limits: &str) -> Server {
    let group = format!("throttle-group,id=tg0,{limits}");
    let mut arguments = vec!["-object".to_owned(), group];
    for disk in 0..2 {
        let node = format!(
            "driver=throttle,node-name=n{disk},throttle-group=tg0,file.driver=null-co,file.size=1M"
        );
        let device = format!(
            "virtio-blk,id=disk{disk},drive=n{disk},x-data-plane=on,context=ctx{disk},vhost-user=d{disk}.sock"
        );
        let context = format!("qcontext,id=ctx{disk},threaded=on");
        arguments.extend(["-object".to_owned(), context]);
        arguments.extend(["-blockdev".to_owned(), node]);
        arguments.extend(["-device".to_owned(), device]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Server::start(directory, &arguments)
}

fn guest(directory: &TestDir, disk: usize) -> Guest {
    Guest::connect(
        &directory.socket(&format!("d{disk}.sock")),
        1,
        64,
        true,
        4096,
    )
    .unwrap()
}

fn submit_reads(guest: &mut Guest, count: usize) {
    for tag in 0..count {
        let segments = vec![(0, 512)];
        guest.submit(0, tag, &Io { segments, ..READ });
    }
    guest.kick(0);
}

/// How many requests finish until `count` have.
fn wait_for(guest: &mut Guest, count: usize) {
    let mut finished = 0;
    while finished < count {
        let done = guest.wait(0);
        assert!(done.iter().all(|(_, result)| *result == 0), "{done:?}");
        finished += done.len();
    }
}

fn set_limits(server: &Server, limits: &str) -> String {
    server.client().ask(format!(
        r#"{{"execute":"qom-set","arguments":{{"path":"/objects/tg0","property":"limits","value":{limits}}}}}"#
    ))
}

#[test]
fn limits_are_changed_while_requests_wait() {
    let directory = TestDir::new();
    // One request passes, the next one would wait for a day.
    let mut server = two_disks(&directory, "limits.bps-total=1");
    let mut guests = [0, 1].map(|disk| guest(&directory, disk));
    submit_reads(&mut guests[0], 20);
    wait_for(&mut guests[0], 1);
    submit_reads(&mut guests[1], 20);
    let none = guests[1].try_wait(0, Duration::from_millis(50));
    assert_eq!(none, [], "both disks share the limit");
    assert_eq!(set_limits(&server, r#"{"bps-total":0}"#), returns("{}"));
    wait_for(&mut guests[0], 19);
    wait_for(&mut guests[1], 20);
    drop(guests);
    server.stop();
}

#[test]
fn two_disks_on_two_contexts_keep_the_rate_together() {
    let directory = TestDir::new();
    let server = two_disks(&directory, "limits.iops-total=2000");
    let mut guests = [0, 1].map(|disk| guest(&directory, disk));
    let start = Instant::now();
    // Each guest keeps 16 requests going; 1 000 in all take nearly half a second.
    let mut finished = [0; 2];
    guests.iter_mut().for_each(|guest| submit_reads(guest, 16));
    while finished[0] + finished[1] < 1000 {
        for (guest, count) in guests.iter_mut().zip(&mut finished) {
            let done = guest.try_wait(0, Duration::from_millis(1)).len();
            *count += done;
            submit_reads(guest, done);
        }
    }
    // A tenth of a second's worth may pass at once, because the group has rested. What else the machine does makes it longer.
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_millis(390), "{elapsed:?}");
    let share = finished[0].min(finished[1]);
    assert!(share >= 300, "{finished:?}");
    drop(guests);
    assert!(server.quit().success());
}

#[test]
fn stop_of_a_queue_does_not_wait_for_the_limit() {
    let directory = TestDir::new();
    let mut server = two_disks(&directory, "limits.bps-total=1");
    let mut first = guest(&directory, 0);
    submit_reads(&mut first, 20);
    wait_for(&mut first, 1);
    // The front end goes; the next one gets the disk when the requests of this one have ended.
    drop(first);
    let mut second = guest(&directory, 0);
    submit_reads(&mut second, 5);
    // And the whole server ends with requests that wait.
    server.stop();
}

#[test]
fn group_is_described_shown_and_refused_as_in_qemu() {
    let directory = TestDir::new();
    let mut server = two_disks(&directory, "limits.iops-read=10,x-iops-read-max=20");
    assert_eq!(server.number("/objects/tg0.x-iops-read-max"), 20);
    let limits = server.subcommand(&["qom-get", "/objects/tg0.limits"]);
    assert!(limits.contains("\"iops-read\": 10"), "{limits}");
    let text = "bps/iops/max total values and read/write values cannot be used at the same time";
    assert_eq!(set_limits(&server, r#"{"iops-total":1}"#), generic(text));
    assert_eq!(server.number("/objects/tg0.x-iops-read"), 10);
    let delete = |id: &str| {
        server.client().ask(format!(
            r#"{{"execute":"object-del","arguments":{{"id":"{id}"}}}}"#
        ))
    };
    assert_eq!(
        delete("tg0"),
        generic("object 'tg0' is in use, can not be deleted")
    );
    assert_eq!(delete("tg1"), generic("object 'tg1' not found"));
    let add = r#"{"execute":"object-add","arguments":{"qom-type":"throttle-group","id":"tg1","limits":{"bps-write":5}}}"#;
    assert_eq!(server.client().ask(add), returns("{}"));
    assert_eq!(server.number("/objects/tg1.x-bps-write"), 5);
    assert_eq!(delete("tg1"), returns("{}"));
    assert_eq!(delete("tg1"), generic("object 'tg1' not found"));
    server.stop();
}

#[test]
fn drive_has_limits_of_its_own_or_a_group_by_name() {
    let directory = TestDir::new();
    let mut arguments = Vec::new();
    let drives = ["throttling.bps-total=1", "throttling.group=d0"];
    for (index, throttling) in drives.into_iter().enumerate() {
        let drive = format!("if=none,id=d{index},format=null-co,size=1M,{throttling}");
        let device = format!("virtio-blk,id=disk{index},drive=d{index},vhost-user=d{index}.sock");
        arguments.extend(["-drive".to_owned(), drive, "-device".to_owned(), device]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut server = Server::start(&directory, &arguments);
    let mut guests = [0, 1].map(|disk| guest(&directory, disk));
    submit_reads(&mut guests[1], 1);
    wait_for(&mut guests[1], 1);
    submit_reads(&mut guests[0], 1);
    let none = guests[0].try_wait(0, Duration::from_millis(50));
    assert_eq!(none, [], "the second drive is in the group of the first");
    drop(guests);
    server.stop();
}
