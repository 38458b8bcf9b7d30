//! Nodes that come over QMP while what is below them does not answer.
#![forbid(unsafe_code)]
#![cfg(feature = "monitor")]
#![allow(clippy::unwrap_used)] // also in what tests call

use std::os::unix::net::UnixListener;

use support::directory::TestDir;
use support::qmp::returns;
use support::server::Server;

#[test]
fn node_that_waits_for_its_server_holds_up_no_other_client() {
    let directory = TestDir::new();
    // Connections stay in its queue.
    let socket = directory.path().join("nbd.sock");
    let silent = UnixListener::bind(&socket).unwrap();
    let mut server = Server::start(&directory, &[]);
    let (mut adding, mut other) = (server.client(), server.client());
    adding.send(
        br#"{"execute":"blockdev-add","arguments":{"driver":"nbd","node-name":"far","server":{"type":"unix","path":"nbd.sock"}}}"#,
    );
    let nodes = other.ask(r#"{"execute":"query-named-block-nodes"}"#);
    assert_eq!(nodes, returns("[]"));
    drop(silent);
    let refused = adding.line();
    assert!(refused.contains("\"error\""), "{refused}");
    std::fs::remove_file(&socket).unwrap();
    drop((adding, other));
    server.stop();
}
