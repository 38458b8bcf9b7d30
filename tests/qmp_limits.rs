//! The limits of the QMP server: what a client may cost at most, and that other clients are served meanwhile.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "vhost-user"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use support::directory::TestDir;
use support::qmp::{Client, VERSION, generic, returns};
use support::server::Server;

#[test]
fn over_a_limit_one_error_comes_and_the_connection_closes() {
    let server = Server::start_alone(&[]);
    let long = format!("{{\"execute\":\"{}", "x".repeat(5 << 20));
    let cases = [
        (long, "JSON token size limit exceeded"),
        ("[".repeat(2000), "JSON nesting depth limit exceeded"),
        (
            format!("[{}", "0,".repeat(70_000)),
            "JSON token count limit exceeded",
        ),
    ];
    for (request, message) in cases {
        let mut client = server.client();
        // The server may hang up before it has all of it.
        let _ = client.stream.write_all(request.as_bytes());
        assert_eq!(client.rest(), generic(message) + "\n");
    }
    let mut client = server.client();
    let deep = format!(
        r#"{{"execute":"query-version","id":{}{}}}"#,
        "[".repeat(1023),
        "]".repeat(1023)
    );
    assert!(client.ask(deep).starts_with(r#"{"return": "#));
}

/// Checks by how many KiB the server has grown at most. AddressSanitizer keeps what was freed, and room around everything.
#[track_caller]
fn grew_less_than(limit: u64, before: u64, server: &Server) {
    let (_, peak) = server.memory();
    let is_sanitized = std::env::var_os("ASAN_OPTIONS").is_some();
    assert!(
        is_sanitized || peak - before < limit,
        "{before} KiB grew to {peak} KiB"
    );
}

/// Writes requests until the server has taken no more for a while; how many bytes it took.
fn stuff(client: &mut Client, request: &[u8], most: usize) -> usize {
    client
        .stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut written = 0;
    while written < most {
        let part = &request[written % request.len()..];
        match client.stream.write(part) {
            Ok(count) => written += count,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                break;
            }
        }
    }
    written
}

#[test]
fn a_client_that_does_not_read_is_not_read_from() {
    let server = Server::start_alone(&[]);
    let (before, _) = server.memory();
    let mut client = server.client();
    let request = br#"{"execute":"query-commands"}"#;
    let written = stuff(&mut client, request, 64 << 20);
    assert!(written < 8 << 20, "the server took {written} bytes");
    grew_less_than(8 << 10, before, &server);
    // Other clients are served.
    let mut other = server.client();
    assert_eq!(
        other.ask(r#"{"execute":"query-version"}"#),
        returns(VERSION)
    );
    // Once the client reads, it gets every answer.
    let whole = written / request.len();
    let rest = &request[written % request.len()..];
    let first = client.line();
    for _ in 1..whole {
        assert_eq!(client.line(), first);
    }
    assert_eq!(client.ask(rest), first);
}

/// Keeps sending until told to stop or hung up on. Counts itself when the server has taken the first of it.
fn send_until(
    (stop, begun): (&AtomicBool, &AtomicUsize),
    mut client: Client,
    bytes: &[u8],
    again: bool,
) {
    client
        .stream
        .set_write_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) && (again || sent < bytes.len()) {
        match client.stream.write(&bytes[sent % bytes.len()..]) {
            Ok(count) => {
                begun.fetch_add(usize::from(sent == 0), Ordering::Relaxed);
                sent += count;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    while !stop.load(Ordering::Relaxed) {
        thread::park_timeout(Duration::from_millis(20));
    }
}

/// Tells the others to stop, also after a failure.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn four_hostile_clients_cost_little_and_hold_up_nobody() {
    let server = Server::start_alone(&[]);
    let mut polite = server.client();
    let (before, _) = server.memory();
    let huge = format!("{{\"execute\":\"{}", "\u{e9}".repeat((2 << 20) - 20)).into_bytes();
    let tokens = format!("[{}", "0,".repeat(32_700)).into_bytes();
    let deep = format!("{}{}", "[".repeat(1024), "]".repeat(1024)).into_bytes();
    let errors = b"}".to_vec();
    let (stop, begun) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let over = Over(&stop);
        for (bytes, again) in [
            (&huge, false),
            (&tokens, false),
            (&deep, true),
            (&errors, true),
        ] {
            let (client, flags) = (server.client(), (&stop, &begun));
            scope.spawn(move || send_until(flags, client, bytes, again));
        }
        let mut left = 500;
        while left > 0 {
            assert_eq!(
                polite.ask(r#"{"execute":"query-version"}"#),
                returns(VERSION)
            );
            left -= u32::from(begun.load(Ordering::Relaxed) == 4);
        }
        drop(over);
    });
    grew_less_than(64 << 10, before, &server);
}

#[test]
fn four_times_the_largest_request_stays_under_64_mib() {
    let server = Server::start_alone(&[]);
    let (before, _) = server.memory();
    let request = format!(r#"{{"execute":"{}"}}"#, "\u{e9}".repeat((2 << 20) - 20));
    let mut clients: Vec<Client> = (0..4).map(|_| server.client()).collect();
    thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| {
                for _ in 0..3 {
                    let reply = client.ask(&request);
                    assert!(reply.contains("CommandNotFound") && reply.len() < 64 << 10);
                }
            });
        }
    });
    grew_less_than(64 << 10, before, &server);
}

/// Clock ticks of processor time that the process has used.
fn processor_time(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap()..].split(' ').collect();
    fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap()
}

#[test]
fn a_client_beyond_the_limit_learns_why_and_so_does_the_host() {
    let directory = TestDir::new();
    let logging = ["sh", "-c", "exec \"$0\" \"$@\" 2>log"];
    let server = Server::start_under(&directory, &logging, &[]);
    let clients: Vec<_> = (0..64).map(|_| server.connect()).collect();
    let mut refused = server.connect();
    let reason = "64 clients are connected, which is the limit";
    assert_eq!(refused.greeting, generic(reason));
    assert_eq!(refused.rest(), "");
    let log = std::fs::read_to_string(directory.file("log")).unwrap();
    let line = format!("monitor: no client is accepted at 'qmp.sock': {reason}\n");
    assert!(log.ends_with(&line), "{log}");
    drop(clients);
}

#[test]
fn clients_beyond_the_fd_limit_wait_without_spinning_and_are_served_later() {
    let server = Server::start_alone_under(&["sh", "-c", "ulimit -n 32; exec \"$0\" \"$@\""], &[]);
    let socket = server.socket();
    let connect = |_| std::os::unix::net::UnixStream::connect(&socket).unwrap();
    let mut early: Vec<_> = (0..40).map(connect).collect();
    let mut last = early.pop().unwrap();
    let before = processor_time(server.pid());
    last.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut byte = [0];
    let waiting = last.read(&mut byte).unwrap_err();
    assert_eq!(waiting.kind(), ErrorKind::WouldBlock);
    let used = processor_time(server.pid()) - before;
    assert!(used < 30, "{used} of 100 ticks were used for waiting");
    drop(early);
    last.set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    assert_eq!(last.read(&mut byte).unwrap(), 1);
}
