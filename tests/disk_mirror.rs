//! `blockdev-mirror` while a guest works: the target has what the guest has written and takes the source's place, or is let go as a
//! copy of one moment. Pauses, cancellations, failing and slow targets, and the death of the program.
//!
//! Needs `qemu-img`, and `nbdkit` for targets that fail; the tests say SKIP where these are not installed.
#![forbid(unsafe_code)]
#![cfg(all(feature = "vhost-user", feature = "monitor"))]
#![allow(clippy::unwrap_used)] // also in what tests call

use std::fs;
use std::thread;

use support::directory::TestDir;
use support::front_end::Guest;
use support::listener::Listener;
use support::nbd_server::{self, NbdServer};
use support::over::Over;
use support::qemu_img::{check, content, missing, qemu_img, wait_unlocked};
use support::random::Random;
use support::server::Server;
use support::shadow::Shadow;
use support::skip::skip;

const SIZE: usize = 16 << 20;
const HALF: usize = SIZE / 2;

/// What differs between runs.
#[derive(Clone, Copy, Debug)]
struct Setup {
    source: &'static str,
    target: &'static str,
    poller: &'static str,
    queues: usize,
    mode: &'static str,
}

const PLAIN: Setup = Setup {
    source: "raw",
    target: "raw",
    poller: "auto",
    queues: 2,
    mode: "background",
};

const SETUPS: [Setup; 6] = [
    PLAIN,
    Setup {
        mode: "write-blocking",
        ..PLAIN
    },
    Setup {
        source: "qcow2",
        target: "qcow2",
        poller: "epoll",
        queues: 4,
        ..PLAIN
    },
    Setup {
        source: "qcow2",
        poller: "io_uring",
        queues: 1,
        mode: "write-blocking",
        ..PLAIN
    },
    Setup {
        target: "nbd",
        queues: 4,
        mode: "write-blocking",
        ..PLAIN
    },
    Setup {
        target: "nbd",
        poller: "io_uring",
        ..PLAIN
    },
];

/// A source with data, holes and zeroes in its first half, an empty target, and a disk over the source.
struct Rig {
    setup: Setup,
    directory: TestDir,
    server: Server,
    listener: Listener,
    shadow: Shadow,
    target_server: Option<NbdServer>,
}

impl Rig {
    fn start(setup: Setup) -> Rig {
        Rig::over(setup, |directory| {
            let socket = directory.socket("server");
            let image = directory.file("dst.raw");
            let serves = setup.target == "nbd";
            serves.then(|| NbdServer::qemu_nbd(&socket, &["-f", "raw", "-e", "8"], &image))
        })
    }

    fn over(setup: Setup, serve: impl FnOnce(&TestDir) -> Option<NbdServer>) -> Rig {
        let directory = TestDir::new();
        let mut random = Random(5);
        let mut bytes = vec![0; SIZE];
        for part in bytes[..HALF].chunks_mut(192 << 10).step_by(2) {
            random.fill(part);
        }
        fs::write(directory.file("plain.raw"), &bytes).unwrap();
        let source = format!("src.{}", setup.source);
        let convert = ["convert", "-O", setup.source, "plain.raw", &source];
        qemu_img(directory.path(), &convert);
        let format = if setup.target == "qcow2" {
            "qcow2"
        } else {
            "raw"
        };
        let target = format!("dst.{format}");
        let create = ["create", "-f", format, &target, &SIZE.to_string()];
        qemu_img(directory.path(), &create);
        let served = serve(&directory);
        let below = match setup.target {
            "nbd" => "file.driver=nbd,file.server.type=unix,file.server.path=server".to_owned(),
            _ => format!("file.driver=file,file.filename={target}"),
        };
        let line = format!(
            "-object qcontext,id=ctx,threaded=on,poller={} \
             -blockdev {},node-name=src,file.driver=file,file.filename={source} \
             -blockdev {format},node-name=dst,{below} \
             -device virtio-blk,id=disk,drive=src,num-queues={},x-data-plane=on,context=ctx,vhost-user=d.sock",
            setup.poller, setup.source, setup.queues
        );
        let server = Server::start(&directory, &words(&line));
        let listener = Listener::new(&server);
        bytes.truncate(HALF);
        Rig {
            setup,
            directory,
            server,
            listener,
            shadow: Shadow::new(bytes, 9),
            target_server: served,
        }
    }

    fn mirror(&mut self, more: &str) {
        let mode = self.setup.mode;
        let arguments = format!(
            r#""job-id":"m","device":"src","target":"dst","sync":"full","copy-mode":"{mode}"{more}"#
        );
        self.listener.done("blockdev-mirror", &arguments);
    }

    /// What is in the target, when nobody uses it any more.
    fn target(&self) -> Vec<u8> {
        let format = if self.setup.target == "qcow2" {
            "qcow2"
        } else {
            "raw"
        };
        content(self.directory.path(), &format!("dst.{format}"))
    }

    fn source(&self) -> Vec<u8> {
        content(self.directory.path(), &format!("src.{}", self.setup.source))
    }

    /// Lets a guest work and flush in the end, and does `act` meanwhile.
    fn beside_guest(&mut self, act: impl FnOnce(&mut Listener)) {
        let over = Over::default();
        let socket = self.directory.socket("d.sock");
        let mut guest =
            Guest::connect(&socket, self.setup.queues, 128, true, Shadow::MEMORY).unwrap();
        let shadow = &mut self.shadow;
        thread::scope(|scope| {
            let end = over.when_dropped();
            let guest = scope.spawn(|| {
                while !over.is_set() {
                    shadow.run(&mut guest, 4);
                }
                shadow.run(&mut guest, 4);
                assert_eq!(guest.flush(0), 0);
            });
            act(&mut self.listener);
            drop(end);
            guest.join().unwrap();
        });
        assert_eq!(self.server.number("/machine/peripheral/disk.errors"), 0);
    }

    /// Ends the program, and checks that the images are good.
    fn stop(&mut self) {
        self.server.stop();
        self.target_server = None;
        for (name, format) in [("src", self.setup.source), ("dst", self.setup.target)] {
            if format == "qcow2" {
                check(self.directory.path(), &format!("{name}.qcow2"), false);
            }
        }
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

fn ends_well(listener: &mut Listener) {
    let completed = listener.wait("BLOCK_JOB_COMPLETED");
    assert!(!completed.contains("error"), "{completed}");
    listener.status("null");
}

/// What clients of qemu-storage-daemon 10.0.2 hear, in its order, when they send these commands.
const LIVES: [&[(&str, &str, &str)]; 4] = [
    &[
        (
            "blockdev-mirror",
            START,
            "created running ready BLOCK_JOB_READY",
        ),
        ("job-pause", ID, "standby"),
        ("job-resume", ID, "ready"),
        (
            "job-complete",
            ID,
            "waiting pending BLOCK_JOB_COMPLETED concluded null",
        ),
    ],
    &[
        (
            "blockdev-mirror",
            START_MANUAL,
            "created running ready BLOCK_JOB_READY",
        ),
        ("job-complete", ID, "waiting pending BLOCK_JOB_PENDING"),
        ("job-finalize", ID, "BLOCK_JOB_COMPLETED concluded"),
        ("job-dismiss", ID, "null"),
    ],
    &[
        (
            "blockdev-mirror",
            START,
            "created running ready BLOCK_JOB_READY",
        ),
        (
            "block-job-cancel",
            r#""device":"m""#,
            "waiting pending BLOCK_JOB_COMPLETED concluded null",
        ),
    ],
    &[
        (
            "blockdev-mirror",
            START_MANUAL,
            "created running ready BLOCK_JOB_READY",
        ),
        ("job-cancel", ID, "aborting BLOCK_JOB_CANCELLED concluded"),
        ("job-dismiss", ID, "null"),
    ],
];
const ID: &str = r#""id":"m""#;
const START: &str = r#""job-id":"m","device":"src","target":"dst","sync":"full""#;
const START_MANUAL: &str = r#""job-id":"m","device":"src","target":"dst","sync":"full","auto-finalize":false,"auto-dismiss":false"#;

#[test]
fn states_and_events_come_in_the_order_of_the_storage_daemon() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    for life in LIVES {
        let mut rig = Rig::start(PLAIN);
        for (command, arguments, expected) in life {
            rig.listener.done(command, arguments);
            for (index, one) in expected.split(' ').enumerate() {
                let event = rig.listener.next_event();
                assert!(
                    event.contains(&format!("\"{one}\"")),
                    "{command} {index} {event}"
                );
                let progress = r#""len": 4259840, "offset": 4259840, "speed": 0, "type": "mirror""#;
                let has_progress = one.starts_with("BLOCK") && !one.ends_with("PENDING");
                assert!(!has_progress || event.contains(progress), "{event}");
            }
        }
        assert_eq!(rig.listener.ask("query-jobs", ""), r#"{"return": []}"#);
        assert_eq!(rig.listener.unheard(), 0);
    }
}

#[test]
fn a_target_takes_the_place_of_its_source_while_a_guest_works() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    for setup in SETUPS {
        let mut rig = Rig::start(setup);
        rig.mirror("");
        rig.beside_guest(|listener| {
            listener.wait("BLOCK_JOB_READY");
            listener.done("job-pause", r#""id":"m""#);
            listener.status("standby");
            listener.done("job-resume", r#""id":"m""#);
            listener.status("ready");
            listener.done("job-complete", r#""id":"m""#);
            ends_well(listener);
        });
        let nodes = rig.listener.ask("query-block", "");
        assert!(nodes.contains(r#""node-name": "dst""#), "{setup:?} {nodes}");
        rig.listener.done("blockdev-del", r#""node-name":"src""#);
        rig.stop();
        assert!(rig.target()[..HALF] == *rig.shadow.bytes(), "{setup:?}");
    }
}

#[test]
fn a_copy_that_is_let_go_is_that_of_one_moment() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    for setup in SETUPS {
        let mut rig = Rig::start(setup);
        rig.beside_guest(|_| {});
        rig.mirror("");
        rig.beside_guest(|listener| {
            listener.wait("BLOCK_JOB_READY");
        });
        rig.listener.done("block-job-cancel", r#""device":"m""#);
        ends_well(&mut rig.listener);
        rig.stop();
        let (source, target) = (rig.source(), rig.target());
        let differs = source
            .iter()
            .zip(&target)
            .position(|(one, other)| one != other);
        assert_eq!(differs, None, "{setup:?}");
        assert!(source[..HALF] == *rig.shadow.bytes(), "{setup:?}");
    }
}

/// The rest of the job after it was started, at random moments.
#[test]
fn a_cancellation_at_any_moment_leaves_the_source_to_the_guest() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let mut random = Random(31);
    for setup in [SETUPS[0], SETUPS[1], SETUPS[2]] {
        let mut rig = Rig::start(setup);
        rig.beside_guest(|listener| {
            for round in 0..24 {
                let mode = ["background", "write-blocking"][random.index(2)];
                let arguments = format!(
                    r#""job-id":"m","device":"src","target":"dst","sync":"full","copy-mode":"{mode}","auto-finalize":{}"#,
                    round % 3 > 0
                );
                listener.done("blockdev-mirror", &arguments);
                for _ in 0..random.index(30) {
                    listener.ask("query-jobs", "");
                }
                if round % 2 == 0 {
                    listener.wait("BLOCK_JOB_READY");
                    if round % 3 == 0 {
                        listener.done("job-complete", r#""id":"m""#);
                        listener.wait("BLOCK_JOB_PENDING");
                    }
                }
                listener.done("job-cancel", r#""id":"m""#);
                listener.wait("BLOCK_JOB_CANCELLED");
                listener.status("null");
            }
        });
        rig.stop();
        assert!(rig.source()[..HALF] == *rig.shadow.bytes(), "{setup:?}");
    }
}

#[test]
fn what_a_guest_writes_is_in_the_target_at_once_in_blocking_mode() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let mut rig = Rig::start(PLAIN);
    rig.mirror("");
    rig.beside_guest(|listener| {
        listener.wait("BLOCK_JOB_READY");
        let jobs = listener.ask("query-block-jobs", "");
        assert!(jobs.contains(r#""actively-synced": false"#), "{jobs}");
        let change = |mode: &str| format!(r#""id":"m","type":"mirror","copy-mode":"{mode}""#);
        listener.done("block-job-change", &change("background"));
        listener.done("block-job-change", &change("write-blocking"));
        let refused = listener.ask("block-job-change", &change("background"));
        let expected = "Change to copy mode 'background' is not implemented";
        assert!(refused.contains(expected), "{refused}");
    });
    rig.beside_guest(|_| {});
    // What was marked before the change is copied by and by.
    while !rig
        .listener
        .ask("query-block-jobs", "")
        .contains(r#""actively-synced": true"#)
    {}
    let read = |of: &Rig, name| fs::read(of.directory.file(name)).unwrap();
    assert!(read(&rig, "src.raw") == read(&rig, "dst.raw"));
    rig.beside_guest(|_| {});
    rig.server.signal("KILL");
    rig.server.wait();
    for name in ["src.raw", "dst.raw"] {
        assert!(read(&rig, name)[..HALF] == *rig.shadow.bytes(), "{name}");
    }
}

#[test]
fn a_kill_at_any_time_leaves_the_source_good() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let mut random = Random(23);
    for round in 0..6 {
        let mut rig = Rig::start(SETUPS[round % 3]);
        rig.beside_guest(|_| {});
        rig.mirror("");
        for _ in 0..random.index(40) {
            rig.listener.ask("query-jobs", "");
        }
        if round > 2 {
            rig.listener.wait("BLOCK_JOB_READY");
            rig.listener.done("job-complete", r#""id":"m""#);
        }
        rig.server.signal("KILL");
        rig.server.wait();
        let source = format!("src.{}", rig.setup.source);
        wait_unlocked(rig.directory.path(), &source);
        if rig.setup.source == "qcow2" {
            check(rig.directory.path(), &source, true);
        }
        assert!(rig.source()[..HALF] == *rig.shadow.bytes(), "{round}");
    }
}

#[test]
fn other_commands_beside_a_mirror_are_refused_or_done() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let mut rig = Rig::start(PLAIN);
    let overlay = ["create", "-f", "qcow2", "over.qcow2", &SIZE.to_string()];
    qemu_img(rig.directory.path(), &overlay);
    rig.mirror("");
    let over = r#""driver":"qcow2","node-name":"over","backing":null,"file":{"driver":"file","filename":"over.qcow2"}"#;
    rig.listener.done("blockdev-add", over);
    rig.beside_guest(|listener| {
        let busy = "is busy: block device is in use by block job: mirror";
        for (command, arguments, expected) in [
            ("blockdev-snapshot", r#""node":"src","overlay":"over""#, busy),
            ("blockdev-mirror", r#""job-id":"n","device":"src","target":"over","sync":"full""#, busy),
            ("blockdev-mirror", r#""job-id":"n","device":"over","target":"dst","sync":"full""#, busy),
            ("block_resize", r#""node-name":"src","size":33554432"#, busy),
            ("block_resize", r#""node-name":"dst","size":33554432"#, busy),
            ("blockdev-del", r#""node-name":"src""#, "in use"),
            ("blockdev-del", r#""node-name":"dst""#, "in use"),
        ] {
            let refused = listener.ask(command, arguments);
            assert!(refused.contains(expected), "{command} {refused}");
        }
        let file = |name: &str, more: &str| {
            format!(r#""options":[{{"driver":"raw","node-name":"{name}","file":{{"driver":"file","filename":"{name}.raw"{more}}}}}]"#)
        };
        listener.done("blockdev-reopen", &file("src", r#","cache":{"direct":false}"#));
        listener.done("blockdev-reopen", &file("dst", r#","discard":"unmap""#));
        listener.wait("BLOCK_JOB_READY");
        listener.done("job-complete", r#""id":"m""#);
        ends_well(listener);
        listener.done("blockdev-snapshot", r#""node":"dst","overlay":"over""#);
    });
    rig.stop();
    fs::remove_file(rig.directory.file("src.raw")).unwrap();
    let rebase = ["rebase", "-u", "-b", "dst.raw", "-F", "raw", "over.qcow2"];
    qemu_img(rig.directory.path(), &rebase);
    assert!(content(rig.directory.path(), "over.qcow2")[..HALF] == *rig.shadow.bytes());
}

/// A mirror to a server whose writes fail with `error` while there is a file `failing`.
fn mirror_to_failing_target(error: &str, on_error: &str, mode: &'static str) -> Option<Rig> {
    if let Some(reason) = missing().or_else(|| nbd_server::missing("nbdkit")) {
        skip(reason);
        return None;
    }
    let setup = Setup {
        target: "nbd",
        mode,
        ..PLAIN
    };
    let mut rig = Rig::over(setup, |directory| {
        let failing = directory.file("failing");
        fs::write(&failing, "").unwrap();
        let socket = directory.socket("server");
        let file = directory.file("dst.raw");
        let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
        let arguments = [
            "--filter=error".to_owned(),
            "file".to_owned(),
            text(&file),
            format!("error-pwrite={error}"),
            "error-pwrite-rate=50%".to_owned(),
            format!("error-file={}", text(&failing)),
        ];
        Some(NbdServer::nbdkit(&socket, &arguments))
    });
    rig.mirror(&format!(
        r#","on-target-error":"{on_error}","auto-dismiss":false"#
    ));
    Some(rig)
}

#[test]
fn a_target_that_fails_ends_the_job_and_not_the_guest() {
    let Some(mut rig) = mirror_to_failing_target("ENOSPC", "report", "background") else {
        return;
    };
    rig.beside_guest(|listener| {
        let error = listener.wait("BLOCK_JOB_ERROR");
        assert!(
            error.contains(r#""operation": "write", "action": "report""#),
            "{error}"
        );
        let completed = listener.wait("BLOCK_JOB_COMPLETED");
        assert!(completed.contains("No space left on device"), "{completed}");
        listener.status("concluded");
        listener.done("job-dismiss", r#""id":"m""#);
    });
    rig.stop();
    assert!(rig.source()[..HALF] == *rig.shadow.bytes());
}

#[test]
fn a_target_that_fails_for_a_time_gets_everything_in_the_end() {
    for (on_error, mode) in [
        ("stop", "background"),
        ("enospc", "write-blocking"),
        ("ignore", "write-blocking"),
    ] {
        let Some(mut rig) = mirror_to_failing_target("ENOSPC", on_error, mode) else {
            return;
        };
        let failing = rig.directory.file("failing");
        rig.beside_guest(|listener| {
            listener.wait("BLOCK_JOB_ERROR");
            if on_error == "ignore" {
                fs::remove_file(&failing).unwrap();
            } else {
                listener.status("paused");
                fs::remove_file(&failing).unwrap();
                listener.done("job-resume", r#""id":"m""#);
            }
            listener.wait("BLOCK_JOB_READY");
        });
        rig.listener.done("block-job-cancel", r#""device":"m""#);
        let completed = rig.listener.wait("BLOCK_JOB_COMPLETED");
        assert!(!completed.contains("error"), "{completed}");
        rig.stop();
        assert!(rig.target() == rig.source(), "{on_error} {mode}");
    }
}

#[test]
fn a_target_that_is_gone_or_silent_does_not_keep_the_guest() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    for (mode, signal) in [
        ("background", "KILL"),
        ("write-blocking", "KILL"),
        ("write-blocking", "STOP"),
    ] {
        let setup = Setup { mode, ..SETUPS[4] };
        let mut rig = Rig::start(setup);
        let target = rig.target_server.take().unwrap();
        rig.mirror(r#","auto-dismiss":false"#);
        rig.beside_guest(|listener| {
            listener.wait("BLOCK_JOB_READY");
            target.signal(signal);
            if signal == "KILL" {
                let completed = listener.wait("BLOCK_JOB_COMPLETED");
                assert!(completed.contains("error"), "{completed}");
            } else {
                listener.done("job-cancel", r#""id":"m""#);
                listener.wait("BLOCK_JOB_CANCELLED");
            }
            listener.status("concluded");
        });
        target.signal("CONT");
        rig.stop();
        assert!(rig.source()[..HALF] == *rig.shadow.bytes(), "{setup:?}");
    }
}

#[test]
fn a_target_is_made_or_opened_by_the_command() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let mut rig = Rig::start(PLAIN);
    let create = ["create", "-f", "raw", "there.raw", &SIZE.to_string()];
    qemu_img(rig.directory.path(), &create);
    rig.beside_guest(|listener| {
        let made = r#""job-id":"m","device":"src","target":"new.qcow2","format":"qcow2","node-name":"new","sync":"full""#;
        listener.done("drive-mirror", made);
        listener.wait("BLOCK_JOB_READY");
        listener.done("job-complete", r#""id":"m""#);
        ends_well(listener);
        let opened = r#""job-id":"m","device":"new","target":"there.raw","mode":"existing","sync":"full","copy-mode":"write-blocking""#;
        listener.done("drive-mirror", opened);
        listener.wait("BLOCK_JOB_READY");
        listener.done("job-complete", r#""id":"m""#);
        ends_well(listener);
    });
    // It was nobody's any more.
    let nodes = rig
        .listener
        .ask("query-named-block-nodes", r#""flat":true"#);
    assert!(
        nodes.contains("there.raw") && !nodes.contains("new.qcow2"),
        "{nodes}"
    );
    rig.stop();
    check(rig.directory.path(), "new.qcow2", false);
    let there = fs::read(rig.directory.file("there.raw")).unwrap();
    assert!(there[..HALF] == *rig.shadow.bytes());
}

#[test]
fn the_top_of_a_chain_is_mirrored_over_the_same_backing_file() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    for mode in ["background", "write-blocking"] {
        let mut rig = Rig::start(PLAIN);
        rig.server.stop();
        let base = fs::read(rig.directory.file("src.raw")).unwrap();
        let overlay = [
            "create",
            "-f",
            "qcow2",
            "-b",
            "src.raw",
            "-F",
            "raw",
            "over.qcow2",
        ];
        qemu_img(rig.directory.path(), &overlay);
        let line = "-object qcontext,id=ctx,threaded=on \
            -blockdev raw,node-name=base,read-only=on,file.driver=file,file.filename=src.raw \
            -blockdev qcow2,node-name=over,file.driver=file,file.filename=over.qcow2,backing=base \
            -device virtio-blk,id=disk,drive=over,num-queues=2,x-data-plane=on,context=ctx,vhost-user=d.sock";
        rig.server = Server::start(&rig.directory, &words(line));
        rig.listener = Listener::new(&rig.server);
        rig.beside_guest(|_| {});
        rig.beside_guest(|listener| {
            let made = format!(
                r#""job-id":"m","device":"over","target":"top.qcow2","sync":"top","copy-mode":"{mode}""#
            );
            listener.done("drive-mirror", &made);
            listener.wait("BLOCK_JOB_READY");
            listener.done("job-complete", r#""id":"m""#);
            ends_well(listener);
        });
        rig.stop();
        let info = qemu_img(rig.directory.path(), &["info", "top.qcow2"]);
        assert!(info.contains("backing file: src.raw"), "{info}");
        check(rig.directory.path(), "top.qcow2", false);
        assert!(fs::read(rig.directory.file("src.raw")).unwrap() == base);
        let top = content(rig.directory.path(), "top.qcow2");
        assert!(top[..HALF] == *rig.shadow.bytes(), "{mode}");
        let alone = ["map", "--output=json", "top.qcow2"];
        assert!(qemu_img(rig.directory.path(), &alone).contains(r#""depth": 1"#));
    }
}
