//! `--export vhost-user-blk`: the same disk as `-device virtio-blk,vhost-user=`, by the storage daemon's options: who may
//! write, which block size, which socket, and how it ends.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "kvm"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use support::deadline::wait_for;
use support::directory::TestDir;
use support::front_end::{Guest, Io};
use support::process::{Process, qctx};
use support::qmp::Client;
use support::raw_front_end::{FrontEnd, memory};
use support::server::Server;
use support::writer::Writer;

const MIB: u64 = 1 << 20;
const F_RO: u64 = 1 << 5;

/// A daemon with a file node and one export, with more options.
fn export(more: &str) -> (TestDir, Server) {
    let directory = TestDir::new();
    directory.image("disk.raw", 4);
    let export =
        format!("vhost-user-blk,id=e0,node-name=f0,addr.type=unix,addr.path=e0.sock{more}");
    let arguments = [
        "--object",
        "iothread,id=io0",
        "--blockdev",
        "file,node-name=f0,filename=disk.raw",
        "--export",
        &export,
    ];
    let server = Server::start(&directory, &arguments);
    (directory, server)
}

fn features(directory: &TestDir) -> u64 {
    FrontEnd::connect(&directory.socket("e0.sock")).offered_features()
}

/// The result of a write by a guest that does not look whether it may.
fn write(directory: &TestDir) -> i32 {
    let socket = directory.socket("e0.sock");
    let mut guest = Guest::connect(&socket, 1, 128, true, 4096).unwrap();
    guest.memory.bytes().fill(7);
    guest.run(
        0,
        &Io {
            write: true,
            offset: 0,
            segments: vec![(0, 4096)],
        },
    )
}

/// The first bytes of the image.
fn written(directory: &TestDir) -> Vec<u8> {
    let image = std::fs::read(directory.path().join("disk.raw")).unwrap();
    image[..4096].to_vec()
}

#[test]
fn an_export_is_read_only_by_default() {
    let (directory, mut server) = export("");
    assert_eq!(features(&directory) & F_RO, F_RO);
    assert_ne!(write(&directory), 0);
    server.stop();
    assert_eq!(written(&directory), [0; 4096]);
}

#[test]
fn a_writable_export_is_written_on_its_iothread() {
    let (directory, mut server) = export(",writable=on,iothread=io0");
    assert_eq!(features(&directory) & F_RO, 0);
    assert_eq!(write(&directory), 0);
    server.stop();
    assert_eq!(written(&directory), [7; 4096]);
}

#[test]
fn a_guest_is_told_the_block_size_and_a_new_length() {
    let (directory, server) = export(",logical-block-size=4096");
    let front_end = FrontEnd::connect(&directory.socket("e0.sock"));
    for message in FrontEnd::negotiation(memory()) {
        front_end.send(&message);
    }
    let _requests = front_end.backend_requests();
    assert_eq!(
        (front_end.capacity(), front_end.block_size()),
        (4 * MIB, 4096)
    );
    let resize = format!(
        r#"{{"execute":"block_resize","arguments":{{"node-name":"f0","size":{}}}}}"#,
        8 * MIB
    );
    assert_eq!(server.client().ask(resize), r#"{"return": {}}"#);
    assert_eq!(front_end.capacity(), 8 * MIB);
}

#[test]
fn two_exports_of_one_node_may_both_write() {
    let (directory, server) = export(",writable=on");
    let add = r#"{"execute":"block-export-add","arguments":{"type":"vhost-user-blk","id":"e1","node-name":"f0","addr":{"type":"unix","path":"e1.sock"},"writable":true}}"#;
    assert_eq!(server.client().ask(add), r#"{"return": {}}"#);
    for socket in ["e0.sock", "e1.sock"] {
        Writer::connect(&directory.socket(socket)).write_until(16);
    }
    // A device lets no one else write.
    let device = r#"{"execute":"device_add","arguments":{"driver":"virtio-blk","id":"d0","drive":"f0","vhost-user":"d0.sock"}}"#;
    let refused = server.client().ask(device);
    assert!(
        refused.contains("permissions 'write' are both required by export 'e")
            && refused.contains("and unshared by device 'd0'"),
        "{refused}"
    );
}

#[test]
fn a_front_end_is_cut_off_when_its_export_is_deleted_and_the_socket_goes() {
    let (directory, server) = export(",writable=on,iothread=io0");
    let socket = directory.socket("e0.sock");
    let front_end = FrontEnd::connect(&socket);
    let mut client = server.client();
    client.send(br#"{"execute":"block-export-del","arguments":{"id":"e0"}}"#);
    let mut lines = [client.line(), client.line()];
    lines.sort_by_key(|line| line.contains("timestamp"));
    assert_eq!(lines[0], r#"{"return": {}}"#);
    assert!(lines[1].contains("BLOCK_EXPORT_DELETED"), "{lines:?}");
    assert!(!socket.exists());
    drop(front_end);
    let gone = r#"{"execute":"query-block-exports"}"#;
    assert_eq!(client.ask(gone), r#"{"return": []}"#);
    let free = r#"{"execute":"object-del","arguments":{"id":"io0"}}"#;
    assert_eq!(client.ask(free), r#"{"return": {}}"#);
}

#[test]
fn clients_hear_of_the_end_of_exports_when_the_program_ends() {
    let (_directory, mut server) = export("");
    let mut client = server.client();
    server.signal("TERM");
    assert!(client.line().contains("BLOCK_EXPORT_DELETED"));
    assert!(server.wait().success());
}

#[test]
fn a_listening_socket_is_handed_over_by_number() {
    let directory = TestDir::new();
    let socket = directory.socket("handed.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    // The shell opens the number for its child.
    let number = listener.as_raw_fd();
    let mut command = Command::new("sh");
    let script = format!(
        r#"exec 7<&{number}; exec "$0" --blockdev null-co,node-name=n0,size=1M --export vhost-user-blk,id=e0,node-name=n0,addr.type=fd,addr.str=7 --qmp unix:qmp.sock,server=on,wait=off"#
    );
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
    command.args(["-c", &script]).arg(qctx());
    command.current_dir(directory.path()).stdin(Stdio::null());
    let mut process = Process::start(&mut command);
    drop(listener);
    let monitor = directory.socket("qmp.sock");
    wait_for("the monitor", || UnixStream::connect(&monitor).ok());
    let guest = Guest::connect(&socket, 1, 128, true, 4096).unwrap();
    assert_eq!(guest.capacity(), MIB);
    let mut client = Client::connect(&monitor);
    client.ask(r#"{"execute":"qmp_capabilities"}"#);
    let refused = client.ask(
        r#"{"execute":"block-export-add","arguments":{"type":"vhost-user-blk","id":"e1","node-name":"n0","addr":{"type":"fd","str":"0"}}}"#,
    );
    assert!(
        refused.contains("File descriptor '0' is not a listening Unix socket"),
        "{refused}"
    );
    process.signal("TERM");
    process.ends_well();
    assert!(socket.exists(), "the socket of another process was removed");
}
