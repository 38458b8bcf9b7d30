//! Nodes that come, go and are asked for over QMP while what is below them does not answer.
#![forbid(unsafe_code)]
#![cfg(feature = "monitor")]
#![allow(clippy::unwrap_used)] // also in what tests call

mod silent_mount;

use std::os::unix::net::UnixListener;

use silent_mount::{SilentMount, is_about_attributes, is_about_closing};
use support::directory::TestDir;
use support::qmp::{VERSION, returns};
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

/// A file of a server that does not answer any more, as a node. The file goes first: until then nothing ends a program that waits for it.
fn silent_node() -> Option<(Server, SilentMount)> {
    let mut mount = SilentMount::new()?;
    let node = "driver=file,node-name=far,filename=silent";
    let server = Server::start(mount.directory(), &["--blockdev", node]);
    mount.be_silent();
    Some((server, mount))
}

#[test]
fn query_about_a_silent_file_system_holds_up_no_other_client() {
    let Some((mut server, mut mount)) = silent_node() else {
        return;
    };
    let (mut asking, mut other) = (server.client(), server.client());
    asking.send(br#"{"execute":"query-named-block-nodes"}"#);
    assert!(is_about_attributes(mount.request()));
    let version = other.ask(r#"{"execute":"query-version"}"#);
    assert_eq!(version, returns(VERSION));
    mount.abort();
    // The rest of the answer does not come from the file system.
    let nodes = asking.line();
    assert!(nodes.contains(r#""virtual-size": 1048576"#), "{nodes}");
    assert!(!nodes.contains("actual-size"), "{nodes}");
    drop((asking, other));
    server.stop();
}

#[test]
fn node_whose_file_is_closed_slowly_holds_up_no_other_client() {
    let Some((mut server, mut mount)) = silent_node() else {
        return;
    };
    let (mut removing, mut other) = (server.client(), server.client());
    removing.send(br#"{"execute":"blockdev-del","arguments":{"node-name":"far"}}"#);
    assert!(is_about_closing(mount.request()));
    let nodes = other.ask(r#"{"execute":"query-named-block-nodes"}"#);
    assert_eq!(nodes, returns("[]"));
    mount.abort();
    assert_eq!(removing.line(), returns("{}"));
    drop((removing, other));
    server.stop();
}
