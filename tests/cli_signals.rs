//! Signals of `qctx`: what guests and peers can raise in it, and what it inherits from the program that starts it.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "vhost-user", feature = "kvm"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::fs::File;

use rustix::event::{PollFd, PollFlags, poll};
use support::deadline::DEADLINE;
use support::directory::TestDir;
use support::front_end::{Guest, Io};
use support::qmp::returns;
use support::raw_front_end::{FrontEnd, SET_VRING_ERR, eventfd, memory};
use support::server::Server;

const MIB: u64 = 1 << 20;
/// Files of the server may have this size.
const FILE_LIMIT: u64 = 16 * MIB;

/// Asks twice: a signal that came before the first question is seen at the second one at the latest.
#[track_caller]
fn goes_on(server: &Server) {
    let mut client = server.client();
    for _ in 0..2 {
        let answer = client.ask("{\"execute\":\"query-status\"}");
        let running = returns(r#"{"status": "running", "running": true}"#);
        assert_eq!(answer, running);
    }
}

/// A server that a shell starts in which `signals` are ignored.
fn ignoring(signals: &str) -> Server {
    let script = format!("trap '' {signals}; exec \"$@\"");
    Server::start_alone_under(&["sh", "-c", &script, "sh"], &[])
}

/// `nohup` does that.
#[test]
fn a_hangup_that_is_ignored_at_the_start_does_not_end_the_program() {
    let mut server = ignoring("HUP");
    server.signal("HUP");
    goes_on(&server);
    server.stop();
}

/// A shell without job control does that to its background jobs.
#[test]
fn an_interrupt_that_is_ignored_at_the_start_does_not_end_the_program() {
    let mut server = ignoring("INT QUIT");
    server.signal("INT");
    server.signal("QUIT");
    goes_on(&server);
    server.stop();
}

#[test]
fn signals_that_are_blocked_at_the_start_end_the_program() {
    for signal in ["HUP", "INT", "TERM", "XCPU"] {
        let block = format!("--block-signal={signal}");
        let mut server = Server::start_alone_under(&["env", &block], &[]);
        server.signal(signal);
        assert!(server.wait().success(), "{signal}");
        assert!(server.sockets().is_empty());
    }
}

/// Two disks of 32 MiB, the first one on a context of its own.
struct Disks {
    server: Server,
    directory: TestDir,
}

impl Disks {
    fn start(directory: TestDir, aio: &str, launcher: &[&str]) -> Disks {
        let drive = |name: &str| {
            directory.image(name, 32);
            format!("id=drive-{name},file={name},format=raw,if=none,aio={aio}")
        };
        let device = |name: &str, rest: &str| {
            format!("virtio-blk,id={name},drive=drive-{name},vhost-user={name}.sock{rest}")
        };
        let arguments = [
            "-object",
            "qcontext,id=ctx1,threaded=yes",
            "-drive",
            &drive("a"),
            "-drive",
            &drive("b"),
            "-device",
            &device("a", ",x-data-plane=on,context=ctx1"),
            "-device",
            &device("b", ""),
        ];
        let server = Server::start_under(&directory, launcher, &arguments);
        Disks { server, directory }
    }

    fn guest(&self, name: &str) -> Guest {
        let socket = self.directory.socket(&format!("{name}.sock"));
        Guest::connect(&socket, 1, 64, true, 2 << 20).unwrap()
    }
}

fn write(offset: u64, length: usize) -> Io {
    Io {
        write: true,
        offset,
        segments: vec![(0, length)],
    }
}

/// `ulimit -f`, LimitFSIZE.
#[track_caller]
fn limit_ends_only_the_request(directory: TestDir, aio: &str) {
    let limit = format!("--fsize={FILE_LIMIT}");
    let mut disks = Disks::start(directory, aio, &["prlimit", &limit]);
    for name in ["a", "b"] {
        let mut guest = disks.guest(name);
        assert_eq!(guest.run(0, &write(FILE_LIMIT, 4096)), -libc::EIO);
        assert_eq!(guest.run(0, &write(FILE_LIMIT - 4096, 8192)), -libc::EIO);
        assert_eq!(guest.run(0, &write(FILE_LIMIT - 4096, 4096)), 0);
        assert_eq!(guest.run(0, &write(FILE_LIMIT + MIB, 1 << 20)), -libc::EIO);
        assert_eq!(guest.flush(0), 0);
    }
    disks.server.stop();
}

#[test]
fn a_write_beyond_the_limit_on_file_sizes_fails_alone_with_threads() {
    limit_ends_only_the_request(TestDir::new(), "threads");
}

#[test]
fn a_write_beyond_the_limit_on_file_sizes_fails_alone_with_io_uring() {
    limit_ends_only_the_request(TestDir::new(), "io_uring");
}

/// Written at once by the context's thread.
#[test]
fn a_write_beyond_the_limit_on_file_sizes_fails_alone_in_memory() {
    limit_ends_only_the_request(TestDir::in_memory(), "threads");
}

/// The front end takes the memory of the rings away: SIGBUS.
#[test]
fn truncated_memory_breaks_one_queue_although_sigbus_is_blocked_at_the_start() {
    let launcher = ["env", "--block-signal=BUS"];
    let mut disks = Disks::start(TestDir::new(), "threads", &launcher);
    let ram = memory();
    let file = File::from(ram.try_clone().unwrap());
    let (kick, broken) = (eventfd(), eventfd());
    let front_end = FrontEnd::connect(&disks.directory.socket("a.sock"));
    let mut messages = FrontEnd::negotiation(ram);
    messages.extend(FrontEnd::queue(kick.try_clone().unwrap(), eventfd()));
    for message in &mut messages {
        if message.request == SET_VRING_ERR {
            message.fd = Some(broken.try_clone().unwrap());
        }
        front_end.send(message);
    }
    assert!(front_end.is_served());
    file.set_len(0).unwrap();
    rustix::io::write(&kick, &1u64.to_ne_bytes()).unwrap();
    let mut fds = [PollFd::new(&broken, PollFlags::IN)];
    let limit = i32::try_from(DEADLINE.as_millis()).unwrap();
    assert_eq!(poll(&mut fds, limit), Ok(1));
    assert_eq!(disks.guest("b").run(0, &write(0, 4096)), 0);
    disks.server.stop();
}
