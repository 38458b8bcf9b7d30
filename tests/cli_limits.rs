//! `qctx` under the limits of its process: how few fds it needs, and what it says when a limit is reached.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "vhost-user", feature = "kvm"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::os::unix::net::UnixStream;

use support::deadline::wait_for;
use support::directory::TestDir;
use support::front_end::{Guest, Io};
use support::qmp::returns;
use support::server::Server;

const QUEUES: usize = 64;
const DISKS: [&str; 3] = ["a", "b", "c"];

/// Three disks with 64 queues each.
fn disks(directory: &TestDir, launcher: &[&str]) -> Server {
    let mut arguments = Vec::new();
    for name in DISKS {
        let node = format!("driver=null-co,node-name=n-{name},size=1M");
        let device = format!(
            "virtio-blk,id={name},drive=n-{name},num-queues={QUEUES},vhost-user={name}.sock"
        );
        arguments.extend(["-blockdev".to_owned(), node, "-device".to_owned(), device]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Server::start_under(directory, launcher, &arguments)
}

fn guest(directory: &TestDir, name: &str) -> Guest {
    let socket = directory.socket(&format!("{name}.sock"));
    Guest::connect(&socket, QUEUES, 16, true, 4096).unwrap()
}

/// All three disks have a guest, and the last queue of each is served.
#[track_caller]
fn all_are_served(directory: &TestDir) {
    let mut guests: Vec<Guest> = DISKS.iter().map(|name| guest(directory, name)).collect();
    for guest in &mut guests {
        let read = Io {
            write: false,
            offset: 0,
            segments: vec![(0, 4096)],
        };
        assert_eq!(guest.run(QUEUES - 1, &read), 0);
    }
}

#[test]
fn each_fd_of_a_queue_is_held_once() {
    let directory = TestDir::new();
    let mut server = disks(&directory, &["prlimit", "--nofile=512:512"]);
    all_are_served(&directory);
    server.stop();
}

#[test]
fn the_soft_limit_on_fds_is_raised_to_the_hard_one() {
    let directory = TestDir::new();
    let mut server = disks(&directory, &["prlimit", "--nofile=256:4096"]);
    all_are_served(&directory);
    server.stop();
}

/// What the server has to say is in a file of the directory.
const LOGGING: &str = "exec \"$@\" 2>log";

#[track_caller]
fn wait_for_line(directory: &TestDir, line: &str) {
    wait_for(line, || {
        let log = std::fs::read_to_string(directory.file("log")).unwrap();
        log.contains(line).then_some(())
    });
}

#[test]
fn a_front_end_that_the_limit_on_fds_refuses_is_told_with_the_limit() {
    let directory = TestDir::new();
    let mut server = disks(
        &directory,
        &["prlimit", "--nofile=200:200", "sh", "-c", LOGGING, "sh"],
    );
    let first = guest(&directory, "a");
    let socket = directory.socket("b.sock");
    assert!(Guest::connect(&socket, QUEUES, 16, true, 4096).is_err());
    drop(first);
    let reason = "device 'b': vhost-user: ended the connection: cannot receive a vhost-user message: \
        Too many open files (os error 24); the limit on open files is 200 (ulimit -n, LimitNOFILE=)";
    wait_for_line(&directory, reason);
    guest(&directory, "b");
    server.stop();
}

/// Every number of fds that is left is tried, since each step of making a context needs another one. GLib ends a process that has
/// none for its main context.
#[test]
fn a_context_that_the_limit_on_fds_refuses_names_the_limit_and_ends_nothing() {
    let directory = TestDir::new();
    let mut server = disks(&directory, &["prlimit", "--nofile=60:60"]);
    let mut client = server.client();
    let mut add = |number: usize| {
        let id = format!("\"qom-type\":\"qcontext\",\"id\":\"ctx{number}\"");
        client.ask(format!(
            "{{\"execute\":\"object-add\",\"arguments\":{{{id}}}}}"
        ))
    };
    let most = (0..60)
        .find(|&number| add(number) != returns("{}"))
        .unwrap();
    let mut others = Vec::new();
    for number in most..most + 8 {
        let refusal = add(number);
        for part in [
            "\"desc\": \"context 'ctx",
            "Too many open files (os error 24); the limit on open files is 60 (",
        ] {
            assert!(refusal.contains(part), "{refusal}");
        }
        others.push(UnixStream::connect(server.socket()).unwrap());
    }
    drop((client, others));
    server.stop();
}

#[test]
fn clients_that_the_limit_on_fds_keeps_out_are_told_to_the_operator() {
    let directory = TestDir::new();
    let mut server = disks(
        &directory,
        &["prlimit", "--nofile=60:60", "sh", "-c", LOGGING, "sh"],
    );
    let mut first = server.client();
    let others: Vec<_> = (0..60)
        .map(|_| UnixStream::connect(server.socket()).unwrap())
        .collect();
    let reason = "monitor: no client is accepted at 'qmp.sock': Too many open files (os error 24); \
        the limit on open files is 60 (ulimit -n, LimitNOFILE=)";
    wait_for_line(&directory, reason);
    assert_eq!(
        first.ask("{\"execute\":\"query-status\"}"),
        returns(r#"{"status": "running", "running": true}"#)
    );
    drop(others);
    server.client();
    server.stop();
}
