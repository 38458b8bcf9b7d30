//! A guest and a client of the NBD server write the same blocks.
#![forbid(unsafe_code)]

use qcontext::nbd::protocol::request::command;
use support::directory::TestDir;
use support::front_end::Guest;
use support::qemu_img::qemu_img;
use support::server::Server;
use support::shared_sectors::{ByteClient, GUEST_MEMORY, exercise};
use support::skip::skip;

use crate::peer::{Peer, Style};

impl ByteClient for Peer {
    fn read(&mut self, offset: u64, len: usize) -> Vec<u8> {
        let answer = self.ask(command::READ, 0, offset, len as u64);
        assert_eq!(answer.error, 0);
        answer.data
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        assert_eq!(self.write_data(0, offset, bytes).error, 0);
    }
}

/// The nodes, and which of them the guest and the client use.
const CASES: [(&[&str], &str, &str); 6] = [
    (&["file,node-name=n0,filename=disk.raw"], "n0", "n0"),
    (
        &["file,node-name=n0,filename=disk.raw,cache.direct=on"],
        "n0",
        "n0",
    ),
    (
        &["qcow2,node-name=n0,file.driver=file,file.filename=disk.qcow2"],
        "n0",
        "n0",
    ),
    (
        &["qcow2,node-name=n0,cache.direct=on,file.driver=file,file.filename=disk.qcow2"],
        "n0",
        "n0",
    ),
    (
        &[
            "qcow2,node-name=n0,file.driver=file,file.filename=disk.qcow2",
            "raw,node-name=n1,file=n0",
        ],
        "n0",
        "n1",
    ),
    (
        &[
            "file,node-name=n0,filename=disk.raw,cache.direct=on",
            "raw,node-name=n1,file=n0",
        ],
        "n1",
        "n0",
    ),
];

#[test]
fn a_guest_and_a_client_lose_no_write_to_the_same_blocks() {
    if let Some(reason) = support::qemu_img::missing() {
        skip(reason);
        return;
    }
    for (nodes, guest_node, client_node) in CASES {
        let directory = TestDir::new();
        directory.image("disk.raw", 1);
        let create = ["create", "-q", "-f", "qcow2", "disk.qcow2", "1M"];
        qemu_img(directory.path(), &create);
        let disk = format!(
            "vhost-user-blk,id=e0,node-name={guest_node},writable=on,iothread=io0,addr.type=unix,addr.path=disk.sock"
        );
        let export =
            format!("nbd,id=e1,node-name={client_node},name=disk,writable=on,iothread=io1");
        let mut arguments = vec![
            "--object",
            "iothread,id=io0",
            "--object",
            "iothread,id=io1",
            "--nbd-server",
            "addr.type=unix,addr.path=nbd.sock",
        ];
        arguments.extend(nodes.iter().flat_map(|node| ["--blockdev", node]));
        arguments.extend(["--export", &disk, "--export", &export]);
        let server = Server::start(&directory, &arguments);
        let mut guest =
            Guest::connect(&directory.socket("disk.sock"), 1, 128, false, GUEST_MEMORY).unwrap();
        let mut client = Peer::of(&directory.socket("nbd.sock"), "disk", Style::Simple);
        exercise(&mut guest, &mut client);
        drop((guest, client, server));
    }
}
