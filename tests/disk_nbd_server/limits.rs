//! Who may connect, for how long, and what a client may cost.
#![forbid(unsafe_code)]

use std::io::Read;
use std::sync::Barrier;
use std::time::Duration;

use qcontext::nbd::protocol::request::command;
use support::directory::TestDir;
use support::server::Server;

use super::peer::{Peer, Style};
use super::{MIB, connect, serve, serve_with};

/// Whether the server has greeted a client by now.
fn is_greeted(peer: &mut Peer) -> bool {
    peer.stream
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let mut greeting = [0; 18];
    peer.stream.read_exact(&mut greeting).is_ok()
}

#[test]
fn no_more_clients_than_allowed_are_served_until_one_goes() {
    let (directory, _server) = serve_with("", ",max-connections=2", &[]);
    let socket = directory.socket("nbd.sock");
    let mut first = connect(&directory, Style::Structured);
    let mut second = Peer::connect(&socket);
    second.greet();
    let mut third = Peer::connect(&socket);
    assert!(!is_greeted(&mut third));
    assert_eq!(first.ask(command::READ, 0, 0, 512).error, 0);
    drop(first);
    third
        .stream
        .set_read_timeout(Some(support::deadline::DEADLINE))
        .unwrap();
    third.greet();
    assert!(third.go("disk").is_ok());
    // One that only negotiates counts as well.
    let mut fourth = Peer::connect(&socket);
    assert!(!is_greeted(&mut fourth));
    drop(second);
    fourth
        .stream
        .set_read_timeout(Some(support::deadline::DEADLINE))
        .unwrap();
    fourth.greet();
}

#[test]
fn a_negotiation_has_a_deadline_and_a_connection_has_none() {
    let (directory, _server) = serve_with("", ",handshake-max-seconds=1", &[]);
    let socket = directory.socket("nbd.sock");
    let mut idle = connect(&directory, Style::Structured);
    let mut silent = Peer::connect(&socket);
    let mut halfway = Peer::connect(&socket);
    halfway.greet();
    assert!(silent.is_hung_up() && halfway.is_hung_up());
    assert_eq!(idle.ask(command::READ, 0, 0, 512).error, 0);
}

/// The memory of a process, in bytes.
fn resident(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.unwrap().split_whitespace().nth(1).unwrap();
    number.parse::<u64>().unwrap() * 1024
}

#[test]
fn a_client_that_does_not_read_costs_a_limited_amount_of_memory() {
    let (directory, server) = serve(&[]);
    let mut reader = connect(&directory, Style::Structured);
    let mut greedy = connect(&directory, Style::Simple);
    let before = resident(&server);
    greedy.stream.set_nonblocking(true).unwrap();
    // Until the server takes no more of them.
    let request = qcontext::nbd::protocol::request::RequestHeader {
        flags: 0,
        command: command::READ,
        cookie: 1,
        offset: 0,
        length: MIB,
    };
    let mut refusals = 0;
    let mut sent = 0;
    while refusals < 20 && sent < 1 << 20 {
        match std::io::Write::write(&mut greedy.stream, &request.encode()) {
            Ok(_) => sent += 1,
            Err(_) => {
                refusals += 1;
                // Each round trip of another client lets the server take what it wants.
                assert_eq!(reader.ask(command::READ, 0, 0, 512).error, 0);
            }
        }
    }
    assert_eq!(refusals, 20, "the server takes everything");
    let cost = resident(&server).saturating_sub(before);
    assert!(cost < 80 * MIB, "{cost} bytes");
    // The other client is served, and the greedy one when it reads.
    assert_eq!(reader.ask(command::READ, 0, 0, 512).error, 0);
    greedy.stream.set_nonblocking(false).unwrap();
    for _ in 0..100 {
        assert_eq!(greedy.answer(MIB).data.len() as u64, MIB);
    }
}

#[test]
fn two_exports_on_two_contexts_work_and_go_while_clients_write() {
    let directory = TestDir::new();
    directory.image("a.raw", 4);
    directory.image("b.raw", 4);
    let arguments = [
        "--object",
        "iothread,id=io0",
        "--object",
        "iothread,id=io1",
        "--blockdev",
        "file,node-name=a,filename=a.raw",
        "--blockdev",
        "file,node-name=b,filename=b.raw",
        "--nbd-server",
        "addr.type=unix,addr.path=nbd.sock",
        "--export",
        "nbd,id=a,node-name=a,writable=on,iothread=io0",
        "--export",
        "nbd,id=b,node-name=b,writable=on,iothread=io1",
    ];
    let mut server = Server::start(&directory, &arguments);
    let socket = directory.socket("nbd.sock");
    let have_written = Barrier::new(5);
    std::thread::scope(|scope| {
        for export in ["a", "a", "b", "b"] {
            let mut peer = Peer::of(&socket, export, Style::Structured);
            let have_written = &have_written;
            scope.spawn(move || {
                assert_eq!(peer.write_data(0, 0, &[7; 4096]).error, 0);
                have_written.wait();
                // Until the export has gone.
                while peer.try_write(&[7; 4096]).is_ok() {}
            });
        }
        have_written.wait();
        let mut client = server.client();
        for (id, node) in [("a", "a"), ("b", "b")] {
            let delete = format!(
                r#"{{"execute":"block-export-del","arguments":{{"id":"{id}","mode":"hard"}}}}"#
            );
            let event = client.ask(delete);
            assert!(event.contains("BLOCK_EXPORT_DELETED"), "{event}");
            assert_eq!(client.line(), r#"{"return": {}}"#);
            let remove =
                format!(r#"{{"execute":"blockdev-del","arguments":{{"node-name":"{node}"}}}}"#);
            assert_eq!(client.ask(remove), r#"{"return": {}}"#);
        }
    });
    server.stop();
}
