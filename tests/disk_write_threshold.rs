//! A guest writes beyond the write threshold of its disk while it works: one event, with what QEMU says.
#![forbid(unsafe_code)]
#![cfg(all(feature = "vhost-user", feature = "monitor"))]
#![allow(clippy::unwrap_used)] // also in what tests call

use support::directory::TestDir;
use support::qmp::{Client, returns};
use support::server::Server;
use support::writer::{BLOCK, Writer};

fn set(client: &mut Client, offset: usize) {
    client.send(
        format!(
            r#"{{"execute":"block-set-write-threshold","arguments":{{"node-name":"n0","write-threshold":{offset}}}}}"#
        )
        .as_bytes(),
    );
}

#[test]
fn each_threshold_is_reported_once_when_the_guest_writes_beyond_it() {
    let directory = TestDir::new();
    directory.image("disk.raw", 64);
    let line = "-object qcontext,id=ctx0,threaded=on \
        -blockdev raw,node-name=n0,file.driver=file,file.filename=disk.raw \
        -device virtio-blk,id=disk0,drive=n0,x-data-plane=on,context=ctx0,vhost-user=disk0.sock";
    let mut server = Server::start(&directory, &line.split_whitespace().collect::<Vec<_>>());
    let mut client = server.client();
    let mut writer = Writer::connect(&directory.socket("disk0.sock"));
    for threshold in [500, 2000] {
        set(&mut client, threshold * BLOCK);
        assert_eq!(client.line(), returns("{}"));
        writer.write_until(threshold + 500);
        let event = client.line();
        let wanted = format!(
            r#""event": "BLOCK_WRITE_THRESHOLD", "data": {{"node-name": "n0", "amount-exceeded": {BLOCK}, "write-threshold": {}}}"#,
            threshold * BLOCK
        );
        assert!(event.contains(&wanted), "{event}");
    }
    let nodes = client.ask(r#"{"execute":"query-named-block-nodes"}"#);
    assert!(nodes.contains(r#""write_threshold": 0"#), "{nodes}");
    assert_eq!(server.number("/machine/peripheral/disk0.errors"), 0);
    drop(client);
    server.stop();
}
