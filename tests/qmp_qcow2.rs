//! What QMP says of a qcow2 image and of those behind it.
//!
//! Needs `qemu-img`; the test says SKIP where that is not installed.
#![forbid(unsafe_code)]
#![cfg(feature = "monitor")]
#![allow(clippy::unwrap_used)] // also in what tests call

use support::directory::TestDir;
use support::qemu_img::{missing, qemu_img};
use support::server::Server;
use support::skip::skip;

#[test]
fn image_is_shown_with_the_length_of_its_backing_chain() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let directory = TestDir::new();
    let create = |arguments: &[&str]| qemu_img(directory.path(), arguments);
    create(&["create", "-f", "raw", "base.raw", "1M"]);
    create(&[
        "create",
        "-f",
        "qcow2",
        "-b",
        "base.raw",
        "-F",
        "raw",
        "one.qcow2",
    ]);
    create(&[
        "create",
        "-f",
        "qcow2",
        "-b",
        "one.qcow2",
        "-F",
        "qcow2",
        "two.qcow2",
    ]);
    let node = "qcow2,node-name=top,file.driver=file,file.filename=two.qcow2";
    let mut server = Server::start(&directory, &["--blockdev", node]);
    let mut client = server.client();
    let nodes = client.ask(r#"{"execute":"query-named-block-nodes"}"#);
    let depth = |count: usize| {
        nodes
            .matches(&format!("\"backing_file_depth\": {count}"))
            .count()
    };
    assert_eq!((depth(2), depth(1)), (1, 1), "{nodes}");
    assert_eq!(nodes.matches("\"backing_file\"").count(), 2, "{nodes}");
    assert!(nodes.contains("one.qcow2"), "{nodes}");
    drop(client);
    server.stop();
}
