//! Where the server listens, and where a client finds it: TCP ports with QEMU's options, and sockets that another process has made.
#![forbid(unsafe_code)]

use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use qcontext::nbd::protocol::handshake::Greeting;
use support::deadline::wait_for;
use support::directory::TestDir;
use support::front_end::Guest;
use support::process::{Process, outcome, qctx};
use support::qmp::Client;
use support::server::Server;
use support::shadow::Shadow;
use support::skip::skip;

use super::serve;

const DISK: [&str; 2] = ["-blockdev", "file,node-name=f0,filename=disk.raw"];
const OFFER: [&str; 2] = ["-export", "nbd,id=e0,node-name=f0"];

/// Whether an NBD server greets at this port.
fn is_served(host: &str, port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect((host, port)) else {
        return false;
    };
    let mut greeting = [0; Greeting::LEN];
    stream.read_exact(&mut greeting).is_ok() && Greeting::decode(&greeting).is_ok()
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn listen(address: &str) -> (TestDir, Server) {
    let directory = TestDir::new();
    directory.image("disk.raw", 1);
    let arguments = [&DISK[..], &["-nbd-server", address], &OFFER].concat();
    let server = Server::start(&directory, &arguments);
    (directory, server)
}

#[test]
fn the_next_port_is_taken_when_one_is_not_free() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let last = port.saturating_add(50);
    let address = |to| format!("addr.type=inet,addr.host=127.0.0.1,addr.port={port},addr.to={to}");
    let mut command = Command::new(qctx());
    let failed = command
        .args(["-nbd-server", &address(port)])
        .output()
        .unwrap();
    let (status, _, error) = outcome(&failed);
    assert_eq!(status, Some(1));
    assert!(
        error.contains("Failed to find an available port: Address already in use"),
        "{error}"
    );
    let (_directory, _server) = listen(&address(last));
    assert!((port + 1..=last).any(|port| is_served("127.0.0.1", port)));
}

#[test]
fn addresses_of_the_other_family_are_not_served() {
    let port = free_port();
    let (_directory, mut server) = listen(&format!(
        "addr.type=inet,addr.host=,addr.port={port},addr.ipv6=off"
    ));
    assert!(is_served("127.0.0.1", port) && !is_served("::1", port));
    server.stop();
    if let Err(error) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        return skip(format!("no IPv6: {error}"));
    }
    let (_other, _server) = listen(&format!(
        "addr.type=inet,addr.host=::,addr.port={port},addr.ipv4=off,addr.keep-alive=on"
    ));
    assert!(!is_served("127.0.0.1", port) && is_served("::1", port));
}

#[test]
fn a_client_connects_to_the_family_that_it_is_told() {
    let port = free_port();
    let (_directory, _server) = listen(&format!(
        "addr.type=inet,addr.host=127.0.0.1,addr.port={port}"
    ));
    let open = |host: &str, more: &str| {
        let node = format!(
            "nbd,node-name=n0,server.type=inet,server.host={host},server.port={port},export=f0,read-only=on{more}"
        );
        let ended = Command::new(qctx())
            .args(["-blockdev", &node, "-device", "nosuch"])
            .output();
        let (_, _, error) = outcome(&ended.unwrap());
        // It comes as far as the device.
        error.contains("nosuch").then_some(()).ok_or(error)
    };
    assert_eq!(open("localhost", ",server.ipv4=on"), Ok(()));
    assert_eq!(
        open("localhost", ",server.ipv6=off,server.keep-alive=on"),
        Ok(())
    );
    // A socket of IPv6 reaches it under another address.
    assert_eq!(open("127.0.0.1", ",server.ipv4=off"), Ok(()));
    let refused = open("::1", ",server.ipv6=off").unwrap_err();
    let expected =
        format!("Failed to connect to '::1:{port}': Address family for hostname not supported");
    assert!(refused.contains(&expected), "{refused}");
    let named = open("localhost", ",server.numeric=on").unwrap_err();
    assert!(named.contains("the host is not a number"), "{named}");
}

/// `qctx` with a socket as its fd 0.
fn start_with(directory: &TestDir, socket: OwnedFd, arguments: &[&str]) -> Process {
    let mut command = Command::new(qctx());
    command
        .args(arguments)
        .current_dir(directory.path())
        .stdin(socket);
    Process::start(&mut command)
}

#[test]
fn a_tcp_socket_that_listens_already_is_served() {
    let directory = TestDir::new();
    directory.image("disk.raw", 1);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let arguments = [
        &DISK[..],
        &["-nbd-server", "addr.type=fd,addr.str=0"],
        &OFFER,
    ]
    .concat();
    let mut process = start_with(&directory, listener.into(), &arguments);
    assert!(is_served("127.0.0.1", port));
    process.signal("TERM");
    process.ends_well();
}

/// Uses a disk over a connection that somebody else has made, and lets it go.
fn use_up(socket: OwnedFd) {
    let directory = TestDir::new();
    let arguments = [
        "-blockdev",
        "nbd,node-name=n0,server.type=fd,server.str=0,export=disk,reconnect-delay=1",
        "-export",
        "vhost-user-blk,id=v0,node-name=n0,addr.type=unix,addr.path=v0.sock,writable=on,num-queues=4",
        "-qmp",
        "unix:qmp.sock,server=on,wait=off",
    ];
    let mut process = start_with(&directory, socket, &arguments);
    let monitor = directory.socket("qmp.sock");
    wait_for("the monitor", || UnixStream::connect(&monitor).ok());
    let disk = directory.socket("v0.sock");
    let mut guest = Guest::connect(&disk, 4, 256, true, Shadow::MEMORY).unwrap();
    let mut shadow = Shadow::new(vec![0; 2 << 20], 11);
    shadow.run(&mut guest, 40);
    drop(guest);
    let mut client = Client::connect(&monitor);
    client.ask(r#"{"execute":"qmp_capabilities"}"#);
    let answer = client.ask(r#"{"execute":"block-export-del","arguments":{"id":"v0"}}"#);
    assert_eq!(answer, r#"{"return": {}}"#);
    let event = client.line();
    assert!(event.contains("BLOCK_EXPORT_DELETED"), "{event}");
    let delete = r#"{"execute":"blockdev-del","arguments":{"node-name":"n0"}}"#;
    assert_eq!(client.ask(delete), r#"{"return": {}}"#);
    process.signal("TERM");
    process.ends_well();
}

#[test]
fn a_client_takes_over_a_connection_of_either_family() {
    let (directory, _server) = serve(&[]);
    let connection = UnixStream::connect(directory.socket("nbd.sock")).unwrap();
    let mut ours = connection.try_clone().unwrap();
    use_up(connection.into());
    // It has hung up, though we have the socket, too.
    ours.set_nonblocking(false).unwrap();
    let mut rest = Vec::new();
    ours.read_to_end(&mut rest).unwrap();
    let port = free_port();
    let tcp = format!("addr.type=inet,addr.host=127.0.0.1,addr.port={port}");
    let far = TestDir::new();
    far.image("disk.raw", 4);
    let offer = [
        "-nbd-server",
        &tcp,
        "-export",
        "nbd,id=e0,node-name=f0,name=disk,writable=on",
    ];
    let _far_server = Server::start(&far, &[&DISK[..], &offer].concat());
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    use_up(stream.into());
}

#[test]
fn what_is_no_such_socket_is_refused() {
    let directory = TestDir::new();
    let unix = UnixListener::bind(directory.socket("x.sock")).unwrap();
    let (pair, _other) = UnixStream::pair().unwrap();
    let node = "nbd,node-name=n0,server.type=fd,server.str=0";
    let server = "addr.type=fd,addr.str=0";
    let cases = [
        (
            "-blockdev",
            node,
            OwnedFd::from(unix),
            "Failed to connect to 'fd:0': ",
        ),
        (
            "-nbd-server",
            server,
            pair.into(),
            "File descriptor '0' is not a listening socket: ",
        ),
        (
            "-blockdev",
            node,
            std::fs::File::open("/dev/null").unwrap().into(),
            "Failed to connect to 'fd:0': Socket operation on non-socket",
        ),
    ];
    for (option, value, socket, expected) in cases {
        let mut command = Command::new(qctx());
        command.args([option, value]).stdin(socket);
        let (status, _, error) = outcome(&command.output().unwrap());
        assert_eq!(status, Some(1), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}
