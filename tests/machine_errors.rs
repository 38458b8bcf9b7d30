//! `werror` and `rerror` of a disk of our own machine: a failed request stops the machine, and `cont` repeats it.
//!
//! Needs /dev/kvm and says SKIP without.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "kvm"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::fs;

use support::directory::TestDir;
use support::front_end::{Guest, Io};
use support::qmp::{Client, returns};
use support::scripted_guest::{self, BLOCK, Request, content};
use support::server::Server;
use support::skip::skip;
use support::tiny_kernel;

/// Writes that may all be under way, then copies of what is on the disk, and a flush.
const BATCHES: [&[Request]; 3] = [
    &[
        Request::Write(0, 0),
        Request::Write(1, 1),
        Request::Write(2, 2),
    ],
    &[Request::Read(8, 1), Request::Read(9, 2)],
    &[Request::Write(8, 5), Request::Write(9, 6), Request::Flush],
];

const RESET: &str =
    r#""event": "RESET", "data": {"guest": false, "reason": "host-qmp-system-reset"}}"#;
const POWER_OFF: &str =
    r#""event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}"#;
const QUIT: &str = r#""event": "SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-quit"}}"#;
const STOP: &str = r#""event": "STOP"}"#;
const RESUME: &str = r#""event": "RESUME"}"#;
/// Where the disk is served: on the main context, or on one of its own with each of the pollers.
const PLACES: [&str; 3] = ["", "epoll", "io_uring"];

/// A machine that waits for its first `cont`, and a client.
struct Machine {
    directory: TestDir,
    server: Server,
    client: Client,
}

impl Machine {
    /// A machine with this kernel whose disk fails by rules of blkdebug; none without KVM.
    fn new(kernel: &[u8], rules: &[String], place: &str, device: &str) -> Option<Machine> {
        if let Err(error) = qcontext::kvm::open() {
            skip(error);
            return None;
        }
        let directory = TestDir::new();
        directory.image("disk0.raw", 1);
        fs::write(directory.file("kernel"), kernel).unwrap();
        let node = format!(
            r#"{{"driver":"blkdebug","node-name":"b0","image":{{"driver":"file","filename":"disk0.raw"}},"inject-error":[{}]}}"#,
            rules.join(",")
        );
        let context = format!("qcontext,id=c0,threaded=on,poller={place}");
        let (objects, served) = match place {
            "" => (vec![], ""),
            _ => (vec!["-object", &context], ",x-data-plane=on,context=c0"),
        };
        let device = format!("virtio-blk,id=disk0,drive=b0{served}{device}");
        let machine = [
            "-machine",
            "microvm",
            "-kernel",
            "kernel",
            "-serial",
            "file:console",
            "-S",
        ];
        let disk = ["-blockdev", &node, "-device", &device];
        let server = Server::start(&directory, &[&objects[..], &machine, &disk].concat());
        Some(Machine {
            client: server.client(),
            directory,
            server,
        })
    }

    /// A line of the monitor, an event without its time.
    fn line(&mut self) -> String {
        let line = self.client.line();
        match line.find("\"event\"") {
            Some(at) => line[at..].to_owned(),
            None => line,
        }
    }

    #[track_caller]
    fn says(&mut self, lines: &[&str]) {
        for line in lines {
            assert_eq!(self.line(), *line);
        }
    }

    fn give(&mut self, command: &str) {
        self.client
            .send(format!("{{\"execute\":\"{command}\"}}").as_bytes());
    }

    #[track_caller]
    fn goes_on(&mut self) {
        self.give("cont");
        self.says(&[RESUME, &returns("{}")]);
    }

    #[track_caller]
    fn stops_for(&mut self, operation: &str, is_space: bool) {
        let reason = if is_space {
            "No space left on device"
        } else {
            "Input/output error"
        };
        let failed = format!(
            r#""event": "BLOCK_IO_ERROR", "data": {{"qom-path": "/machine/peripheral/disk0", "device": "", "node-name": "b0", "operation": "{operation}", "action": "stop", "nospace": {is_space}, "reason": "{reason}"}}}}"#
        );
        self.says(&[&failed, STOP]);
        self.is_in("io-error", if is_space { "nospace" } else { "failed" });
    }

    /// The state of the machine, and the status of the disk.
    #[track_caller]
    fn is_in(&mut self, state: &str, status: &str) {
        self.give("query-status");
        let running = state == "running";
        self.says(&[&returns(&format!(
            r#"{{"status": "{state}", "running": {running}}}"#
        ))]);
        self.give("query-block");
        let answer = self.line();
        let expected = format!(r#""io-status": "{status}""#);
        assert!(answer.contains(&expected), "{answer}");
    }

    /// Waits for the end. The statuses of the requests, as the guest said them.
    #[track_caller]
    fn ends(mut self, last: &str) -> String {
        self.says(&[last]);
        assert_eq!(self.client.rest(), "");
        assert_eq!(self.server.wait().code(), Some(0));
        fs::read_to_string(self.directory.file("console")).unwrap()
    }

    /// The same. Every request has ended well, and the disk is right.
    #[track_caller]
    fn ends_well(self, said: &str) {
        let image = self.directory.file("disk0.raw");
        let image = fs::File::open(image).unwrap();
        assert_eq!(self.ends(POWER_OFF), said);
        let on_disk = [(0, 0), (1, 1), (2, 2), (5, 1), (6, 2)];
        for (block, memory) in on_disk {
            let mut bytes = [0; BLOCK];
            std::os::unix::fs::FileExt::read_exact_at(&image, &mut bytes, (block * BLOCK) as u64)
                .unwrap();
            assert!(bytes == [content(memory); BLOCK], "block {block}");
        }
    }
}

/// A rule: one request of that kind fails, where it touches the block.
fn rule(kind: &str, errno: i32, block: usize, immediately: bool) -> String {
    let sector = block * BLOCK / 512;
    format!(
        r#"{{"event":"none","iotype":"{kind}","errno":{errno},"sector":{sector},"once":true,"immediately":{immediately}}}"#
    )
}

fn kernel() -> Vec<u8> {
    scripted_guest::kernel(&BATCHES)
}

#[test]
fn a_machine_stops_for_space_and_goes_on_without_losing_a_write() {
    for place in PLACES {
        for immediately in [false, true] {
            let rules = [(); 2].map(|()| rule("write", libc::ENOSPC, 1, immediately));
            let Some(mut machine) = Machine::new(&kernel(), &rules, place, "") else {
                return;
            };
            machine.goes_on();
            for _ in 0..2 {
                machine.stops_for("write", true);
                // It is stopped already, for that reason.
                machine.give("stop");
                machine.says(&[&returns("{}")]);
                machine.is_in("io-error", "nospace");
                machine.goes_on();
            }
            machine.ends_well("00000000");
        }
    }
}

#[test]
fn a_machine_stops_for_every_kind_of_request_if_it_is_told_to() {
    for kind in ["write", "read", "flush"] {
        let mut rules = vec![rule(kind, libc::EIO, 1, false)];
        if kind == "flush" {
            rules = vec![rules[0].replace(&format!("\"sector\":{},", BLOCK / 512), "")];
        }
        let stop = ",rerror=stop,werror=stop";
        let Some(mut machine) = Machine::new(&kernel(), &rules, PLACES[2], stop) else {
            return;
        };
        machine.goes_on();
        machine.stops_for(if kind == "read" { "read" } else { "write" }, false);
        machine.goes_on();
        machine.ends_well("00000000");
    }
}

#[test]
fn several_requests_that_fail_stop_the_machine_once() {
    let rules = [0, 1, 2].map(|block| rule("write", libc::ENOSPC, block, true));
    let Some(mut machine) = Machine::new(&kernel(), &rules, PLACES[0], "") else {
        return;
    };
    machine.goes_on();
    for _ in 0..2 {
        assert!(machine.line().contains("BLOCK_IO_ERROR"));
    }
    machine.stops_for("write", true);
    machine.goes_on();
    machine.ends_well("00000000");
}

#[test]
fn the_guest_sees_what_is_reported_and_not_what_is_ignored() {
    for (rules, said) in [("report", "01000000"), ("ignore", "00000000")] {
        let failing = [rule("write", libc::ENOSPC, 1, false)];
        let device = format!(",werror={rules}");
        let Some(mut machine) = Machine::new(&kernel(), &failing, PLACES[1], &device) else {
            return;
        };
        machine.goes_on();
        let event = machine.line();
        assert!(
            event.contains(&format!(r#""action": "{rules}", "reason""#)),
            "{event}"
        );
        assert_eq!(machine.ends(POWER_OFF), said);
    }
}

#[test]
fn a_reset_drops_the_request_that_waits() {
    for place in PLACES {
        let rules = [rule("write", libc::ENOSPC, 2, false)];
        let Some(mut machine) = Machine::new(&kernel(), &rules, place, "") else {
            return;
        };
        machine.goes_on();
        machine.stops_for("write", true);
        machine.give("system_reset");
        machine.says(&[&returns("{}"), RESET]);
        machine.is_in("prelaunch", "nospace");
        machine.goes_on();
        machine.ends_well("00000000");
    }
}

#[test]
fn a_machine_ends_while_a_request_waits() {
    for place in PLACES {
        let rules = [rule("write", libc::ENOSPC, 2, false)];
        let Some(mut machine) = Machine::new(&kernel(), &rules, place, "") else {
            return;
        };
        machine.goes_on();
        machine.stops_for("write", true);
        machine.give("quit");
        machine.says(&[&returns("{}")]);
        assert_eq!(machine.ends(QUIT), "");
    }
}

/// The machine of the front end is another process's.
#[test]
fn a_disk_beside_the_machine_stops_alone() {
    let rules = [rule("write", libc::ENOSPC, 1, false)];
    let beside = ",vhost-user=disk0.sock";
    let Some(mut machine) = Machine::new(&tiny_kernel::busy(), &rules, PLACES[1], beside) else {
        return;
    };
    machine.goes_on();
    let socket = machine.directory.socket("disk0.sock");
    let mut guest = Guest::connect(&socket, 1, 64, true, BLOCK).unwrap();
    let write = Io {
        write: true,
        offset: BLOCK as u64,
        segments: vec![(0, BLOCK)],
    };
    guest.submit(0, 0, &write);
    guest.kick(0);
    assert!(machine.line().contains(r#""action": "stop""#));
    machine.is_in("running", "nospace");
    // A machine that runs does not say that it goes on.
    machine.give("cont");
    machine.says(&[&returns("{}")]);
    assert_eq!(guest.wait(0), [(0, 0)]);
    machine.is_in("running", "ok");
}
