//! The NBD server: what clients see, also beside qemu-storage-daemon; who may connect for how long; exports that come and go.
//!
//! The tools are those of QEMU and of libnbd. Where they are not installed, the tests say so and count as skipped.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "kvm"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod addresses;
mod bitmaps;
mod durability;
mod hostile;
mod limits;
mod peer;
mod shared;
mod tls;
mod tools;

use std::io::Read;

use peer::{Peer, Style};
use qcontext::nbd::protocol::handshake::{option, option_reply};
use qcontext::nbd::protocol::meta::{Extent, StatusChunk};
use qcontext::nbd::protocol::request::{command, command_flag};
use support::directory::TestDir;
use support::qmp::generic;
use support::server::Server;

const MIB: u64 = 1 << 20;
const EPERM: u32 = 1;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;

/// A daemon that offers `disk.raw` of 4 MiB as `disk`, with more arguments.
pub(crate) fn serve(more: &[&str]) -> (TestDir, Server) {
    serve_with(
        "writable=on,allocation-depth=on,description=a disk",
        "",
        more,
    )
}

pub(crate) fn serve_with(export: &str, limits: &str, more: &[&str]) -> (TestDir, Server) {
    let directory = TestDir::new();
    directory.image("disk.raw", 4);
    let export = format!("nbd,id=e0,node-name=f0,name=disk,{export}");
    let listen = format!("addr.type=unix,addr.path=nbd.sock{limits}");
    let mut arguments = vec![
        "--object",
        "iothread,id=io0",
        "--object",
        "iothread,id=io1",
        "--blockdev",
        "file,node-name=f0,filename=disk.raw",
        "--nbd-server",
        &listen,
        "--export",
        &export,
    ];
    arguments.extend(more);
    let server = Server::start(&directory, &arguments);
    (directory, server)
}

fn connect(directory: &TestDir, style: Style) -> Peer {
    Peer::of(&directory.socket("nbd.sock"), "disk", style)
}

const STYLES: [Style; 3] = [Style::Simple, Style::Structured, Style::Extended];

#[test]
fn what_is_written_is_read_in_every_style() {
    for style in STYLES {
        let (directory, mut server) = serve(&[]);
        let mut peer = connect(&directory, style);
        let data: Vec<u8> = (0..10_000_u32).map(|at| at.to_le_bytes()[0]).collect();
        assert_eq!(peer.write_data(0, 1001, &data).error, 0, "{style:?}");
        let read = peer.ask(command::READ, 0, 1000, 10_002);
        let expected = [&[0][..], &data, &[0]].concat();
        assert_eq!((read.error, read.data), (0, expected), "{style:?}");
        assert_eq!(peer.ask(command::TRIM, 0, 4096, 4096).error, 0);
        assert_eq!(peer.ask(command::WRITE_ZEROES, 0, 1001, 10_000).error, 0);
        assert_eq!(peer.ask(command::CACHE, 0, 0, 4 * MIB).error, 0);
        assert_eq!(peer.ask(command::READ, 0, 1000, 10_002).data, [0; 10_002]);
        assert_eq!(peer.ask(command::READ, 0, 4 * MIB, 0).data, []);
        assert_eq!(
            peer.write_data(command_flag::FUA, 3 * MIB, &[7; 4096])
                .error,
            0
        );
        assert_eq!(peer.ask(command::FLUSH, 0, 0, 0).error, 0);
        peer.send(command::DISC, 0, 0, 0, &[]);
        assert!(peer.is_hung_up(), "{style:?}");
        server.stop();
        let image = std::fs::read(directory.file("disk.raw")).unwrap();
        assert!(image[3 << 20..][..4096] == [7; 4096] && image[..3 << 20] == [0; 3 << 20]);
    }
}

#[test]
fn what_an_export_does_not_offer_is_refused_with_qemus_texts() {
    let (directory, _server) = serve_with("allocation-depth=on", "", &[]);
    let read_only = connect(&directory, Style::Structured);
    let (other, _daemon) = serve(&[]);
    let writable = connect(&other, Style::Structured);
    let past = "operation past EOF; From: 4194304, Len: 1, Size: 4194304";
    let cases = [
        (true, command::READ, 0, 4 * MIB, 1, EINVAL, past),
        (true, command::WRITE_ZEROES, 0, 4 * MIB, 1, ENOSPC, past),
        (true, command::TRIM, 0, 4 * MIB, 1, EINVAL, past),
        (
            true,
            command::READ,
            0,
            0,
            33 * MIB,
            EINVAL,
            "len (34603008) is larger than max len (33554432)",
        ),
        (
            true,
            command::READ,
            command_flag::NO_HOLE,
            0,
            1,
            EINVAL,
            "unsupported flags for command read (got 0x2)",
        ),
        (
            true,
            command::BLOCK_STATUS,
            0,
            0,
            0,
            EINVAL,
            "need non-zero length",
        ),
        (
            true,
            77,
            0,
            0,
            1,
            EINVAL,
            "invalid request type (77) received",
        ),
        (false, command::TRIM, 0, 0, 1, EPERM, "Export is read-only"),
        (
            false,
            command::WRITE_ZEROES,
            0,
            0,
            1,
            EPERM,
            "Export is read-only",
        ),
    ];
    let mut peers = [read_only, writable];
    for (may_write, command, flags, offset, length, error, text) in cases {
        let peer = &mut peers[usize::from(may_write)];
        let answer = peer.ask(command, flags, offset, length);
        assert_eq!((answer.error, answer.text.as_str()), (error, text));
        // The connection goes on.
        assert_eq!(peer.ask(command::READ, 0, 0, 512).data, [0; 512]);
    }
    let refused = peers[0].write_data(0, 0, &[1; 512]);
    assert_eq!(refused.text, "Export is read-only");
    let far = peers[1].write_data(0, 4 * MIB - 1, &[1; 2]);
    assert_eq!(far.error, ENOSPC);
}

#[test]
fn options_are_answered_as_by_the_storage_daemon() {
    let (directory, _server) = serve(&[]);
    let mut peer = Peer::connect(&directory.socket("nbd.sock"));
    peer.greet();
    let mut ask = |number, data: &[u8]| {
        peer.option(number, data);
        let (reply, text) = peer.option_reply();
        (reply, String::from_utf8(text).unwrap())
    };
    let cases = [
        (
            option::STARTTLS,
            &[][..],
            option_reply::ERR_POLICY,
            "TLS not configured",
        ),
        (
            77,
            &[1],
            option_reply::ERR_UNSUP,
            "Unsupported option 77 (<unknown>)",
        ),
        (
            option::STRUCTURED_REPLY,
            &[1],
            option_reply::ERR_INVALID,
            "option 'structured reply' has unexpected length",
        ),
        (
            option::LIST_META_CONTEXT,
            b"\0\0\0\x04disk\0\0\0\0",
            option_reply::ERR_INVALID,
            "request option 'list meta context' when structured reply is not negotiated",
        ),
        (
            option::GO,
            b"\0\0\0\x04none\0\0",
            option_reply::ERR_UNKNOWN,
            "export 'none' not present",
        ),
        (
            option::INFO,
            b"\0\0\xff\xffdisk",
            option_reply::ERR_INVALID,
            "option 'info' is malformed",
        ),
        (option::STRUCTURED_REPLY, &[], option_reply::ACK, ""),
        (
            option::STRUCTURED_REPLY,
            &[],
            option_reply::ERR_INVALID,
            "structured reply already negotiated",
        ),
    ];
    for (number, data, reply, text) in cases {
        assert_eq!(ask(number, data), (reply, text.to_owned()));
    }
    let (reply, text) = ask(option::STRUCTURED_REPLY, &[0; 100_000]);
    assert_eq!(reply, option_reply::ERR_TOO_BIG, "{text}");
    assert_eq!(ask(option::ABORT, &[]).0, option_reply::ACK);
    assert!(peer.is_hung_up());
}

/// The oldest way to choose an export: there is no reply but the export, with 124 zeroes.
#[test]
fn an_old_client_gets_its_export_by_name() {
    let (directory, _server) = serve(&[]);
    let mut peer = Peer::connect(&directory.socket("nbd.sock"));
    let mut greeting = [0; 18];
    peer.stream.read_exact(&mut greeting).unwrap();
    peer.write(&0_u32.to_be_bytes());
    peer.option(option::EXPORT_NAME, b"disk");
    let mut reply = [1; 134];
    peer.stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..8], (4 * MIB).to_be_bytes());
    assert_eq!(reply[10..], [0; 124]);
    assert_eq!(peer.ask(command::READ, 0, 0, 16).data, [0; 16]);
    let mut lost = Peer::connect(&directory.socket("nbd.sock"));
    lost.greet();
    lost.option(option::EXPORT_NAME, b"none");
    assert!(lost.is_hung_up());
}

#[test]
fn block_status_says_where_data_is_and_in_which_image() {
    let (directory, _server) = serve(&[]);
    for style in [Style::Structured, Style::Extended] {
        let mut peer = connect(&directory, style);
        assert_eq!(peer.write_data(0, MIB, &[1; 65536]).error, 0);
        let extent = |length, flags| Extent { length, flags };
        let answer = peer.ask(command::BLOCK_STATUS, 0, 0, 2 * MIB);
        let expected = StatusChunk {
            context: 0,
            extents: vec![extent(MIB, 3), extent(65536, 0), extent(MIB - 65536, 3)],
        };
        assert_eq!(answer.status[0], expected, "{style:?}");
        let depth = StatusChunk {
            context: 1,
            extents: vec![extent(2 * MIB, 1)],
        };
        assert_eq!(answer.status[1], depth, "{style:?}");
        let one = peer.ask(command::BLOCK_STATUS, command_flag::REQ_ONE, 0, 2 * MIB);
        assert_eq!(one.status[0].extents, [extent(MIB, 3)]);
    }
    let mut peer = connect(&directory, Style::Simple);
    // A client that has chosen no context.
    assert_eq!(peer.ask(command::BLOCK_STATUS, 0, 0, 512).error, EINVAL);
}

#[test]
fn names_that_the_protocol_cannot_carry_are_refused() {
    let (_directory, server) = serve(&[]);
    for (member, what) in [("name", "export name"), ("description", "description")] {
        let add = format!(
            r#"{{"execute":"block-export-add","arguments":{{"type":"nbd","id":"e1","node-name":"f0","{member}":"{}"}}}}"#,
            "x".repeat(4097)
        );
        let refused = server.client().ask(add);
        assert!(
            refused.contains(&format!(r#""desc": "{what} 'xxx"#)),
            "{member}"
        );
    }
}

#[test]
fn a_node_on_offer_keeps_its_size() {
    let (_directory, server) = serve(&[]);
    let resize = r#"{"execute":"block_resize","arguments":{"node-name":"f0","size":8388608}}"#;
    let refused = server.client().ask(resize);
    assert!(
        refused.contains("permissions 'resize' are both required by") && refused.contains("'e0'"),
        "{refused}"
    );
}

#[test]
fn an_export_with_clients_goes_only_if_it_must() {
    let (directory, server) = serve(&[]);
    let mut peer = connect(&directory, Style::Structured);
    assert_eq!(peer.ask(command::READ, 0, 0, 512).error, 0);
    let mut client = server.client();
    let delete = |mode: &str| {
        format!(r#"{{"execute":"block-export-del","arguments":{{"id":"e0","mode":"{mode}"}}}}"#)
    };
    assert_eq!(
        client.ask(delete("safe")),
        generic("export 'e0' still in use")
    );
    assert_eq!(peer.ask(command::READ, 0, 0, 512).error, 0);
    let event = client.ask(delete("hard"));
    assert!(event.contains("BLOCK_EXPORT_DELETED"), "{event}");
    assert_eq!(client.line(), r#"{"return": {}}"#);
    assert!(peer.is_hung_up());
    let gone = r#"{"execute":"blockdev-del","arguments":{"node-name":"f0"}}"#;
    assert_eq!(client.ask(gone), r#"{"return": {}}"#);
}

#[test]
fn the_server_stops_with_its_exports_and_starts_again() {
    let (directory, server) = serve(&[]);
    let mut peer = connect(&directory, Style::Structured);
    let mut negotiating = Peer::connect(&directory.socket("nbd.sock"));
    negotiating.greet();
    let mut client = server.client();
    let event = client.ask(r#"{"execute":"nbd-server-stop"}"#);
    assert!(event.contains("BLOCK_EXPORT_DELETED"), "{event}");
    assert_eq!(client.line(), r#"{"return": {}}"#);
    assert!(peer.is_hung_up() && negotiating.is_hung_up());
    assert!(!directory.file("nbd.sock").exists());
    let start = r#"{"execute":"nbd-server-start","arguments":{"addr":{"type":"unix","data":{"path":"nbd.sock"}}}}"#;
    assert_eq!(client.ask(start), r#"{"return": {}}"#);
    let add = r#"{"execute":"nbd-server-add","arguments":{"device":"f0","name":"disk"}}"#;
    assert_eq!(client.ask(add), r#"{"return": {}}"#);
    let mut again = connect(&directory, Style::Structured);
    assert_eq!(again.ask(command::READ, 0, 0, 512).error, 0);
}
