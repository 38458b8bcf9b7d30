//! Exports of NBD servers as disks, over vhost-user with an independent front end: what is written is what is read, and what the
//! server's image has.
#![forbid(unsafe_code)]
#![cfg(feature = "vhost-user")]
#![allow(clippy::unwrap_used)] // also in what tests call

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use qcontext::block::Node;
use qcontext::object::options;
use qcontext::{Poller, QContext};
use support::directory::{TestDir, unique};
use support::front_end::Guest;
use support::nbd_server::{NbdServer, missing};
use support::served_disk::Disk;
use support::shadow::Shadow;
use support::skip::skip;

/// Half of it is compared.
const SIZE: usize = 4 << 20;

/// A server, and how it is started on an image.
struct Peer {
    name: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
}

const PEERS: [Peer; 6] = [
    Peer {
        name: "one connection",
        program: "qemu-nbd",
        arguments: &["-f", "raw"],
    },
    Peer {
        name: "several connections",
        program: "qemu-nbd",
        arguments: &["-f", "raw", "-e", "8"],
    },
    Peer {
        name: "fewer connections than queues",
        program: "qemu-nbd",
        arguments: &["-f", "raw", "-e", "2"],
    },
    Peer {
        name: "nbdkit",
        program: "nbdkit",
        arguments: &["file"],
    },
    Peer {
        name: "nbdkit without structured replies, late",
        program: "nbdkit",
        arguments: &[
            "--no-sr",
            "--filter=delay",
            "file",
            "rdelay=1ms",
            "wdelay=1ms",
        ],
    },
    Peer {
        name: "nbdkit without zeroes, trims and flushes",
        program: "nbdkit",
        arguments: &["--filter=nozero", "--filter=blocksize", "file", "maxlen=8K"],
    },
];

fn start(peer: &Peer, dir: &TestDir, image: &Path) -> NbdServer {
    let socket = dir.socket("nbd.sock");
    if peer.program == "qemu-nbd" {
        return NbdServer::qemu_nbd(&socket, peer.arguments, image);
    }
    let mut arguments: Vec<_> = peer.arguments.iter().map(Into::into).collect();
    arguments.push(image.as_os_str().to_owned());
    NbdServer::nbdkit(&socket, &arguments)
}

fn open(socket: &Path, more: &str) -> Arc<Node> {
    let name = unique("node");
    let text = format!(
        "driver=nbd,node-name={name},server.type=unix,server.path={}{more}",
        socket.display()
    );
    Node::open_blockdev(options::parse_dotted("driver", &text).unwrap()).unwrap()
}

fn verify(poller: Poller, queues: u16) {
    let context = QContext::builder(&unique("ctx"))
        .threaded(true)
        .poller(poller);
    let context = context.build().unwrap();
    if context.poller() != poller {
        return skip(format!("this kernel gives no {poller}"));
    }
    for peer in &PEERS {
        if let Some(reason) = missing(peer.program) {
            skip(reason);
            continue;
        }
        let dir = TestDir::new();
        let image = dir.file("disk.raw");
        std::fs::write(&image, vec![0; SIZE]).unwrap();
        let server = start(peer, &dir, &image);
        let node = open(&server.socket, "");
        assert_eq!(node.length(), SIZE as u64, "{}", peer.name);
        let disk = Disk::serve(dir, image.clone(), node, queues, &context);
        let mut shadow = Shadow::new(vec![0; SIZE / 2], u64::from(queues));
        for _ in 0..2 {
            let count = queues.into();
            let mut guest = Guest::connect(&disk.socket, count, 256, true, Shadow::MEMORY).unwrap();
            shadow.run(&mut guest, 40);
        }
        assert_eq!(disk.stats().errors, 0, "{}", peer.name);
        let _dir = disk.close();
        let found = std::fs::read(&image).unwrap();
        assert!(found[..SIZE / 2] == *shadow.bytes(), "{}", peer.name);
    }
}

#[test]
fn data_survives_one_queue() {
    verify(Poller::Epoll, 1);
}

#[test]
fn data_survives_four_queues() {
    verify(Poller::Epoll, 4);
}

#[test]
fn data_survives_one_queue_of_a_context_that_waits_in_the_ring() {
    verify(Poller::IoUring, 1);
}

#[test]
fn data_survives_four_queues_of_a_context_that_waits_in_the_ring() {
    verify(Poller::IoUring, 4);
}

#[test]
fn a_qcow2_image_on_a_server_is_a_disk() {
    let no_tool = missing("qemu-nbd").or_else(support::qemu_img::missing);
    if let Some(reason) = no_tool {
        return skip(reason);
    }
    let context = QContext::builder(&unique("ctx")).threaded(true);
    let context = context.build().unwrap();
    let dir = TestDir::new();
    let image = dir.file("disk.qcow2");
    let create = ["create", "-q", "-f", "qcow2", "disk.qcow2", "4M"];
    support::qemu_img::qemu_img(dir.path(), &create);
    // The export does not grow.
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    file.set_len(8 << 20).unwrap();
    let server = start(&PEERS[1], &dir, &image);
    let name = unique("node");
    let socket = server.socket.display();
    let text = format!(
        "driver=qcow2,node-name={name},file.driver=nbd,file.server.type=unix,file.server.path={socket}"
    );
    let node = Node::open_blockdev(options::parse_dotted("driver", &text).unwrap()).unwrap();
    let disk = Disk::serve(dir, image, node, 2, &context);
    let mut shadow = Shadow::new(vec![0; SIZE / 2], 8);
    let mut guest = Guest::connect(&disk.socket, 2, 256, true, Shadow::MEMORY).unwrap();
    shadow.run(&mut guest, 40);
    drop(guest);
    assert_eq!(disk.stats().errors, 0);
    let closed = disk.close();
    drop(server);
    support::qemu_img::check(closed.path(), "disk.qcow2", true);
    let content = support::qemu_img::content(closed.path(), "disk.qcow2");
    assert!(content[..SIZE / 2] == *shadow.bytes());
}

/// Kills the server and starts it again, until the guest has done its work.
#[test]
fn nothing_is_lost_when_the_server_is_killed_and_comes_back() {
    if let Some(reason) = missing("qemu-nbd") {
        return skip(reason);
    }
    let context = QContext::builder(&unique("ctx")).threaded(true);
    let context = context.build().unwrap();
    for peer in &PEERS[..2] {
        let dir = TestDir::new();
        let image = dir.file("disk.raw");
        std::fs::write(&image, vec![0; SIZE]).unwrap();
        let server = start(peer, &dir, &image);
        let node = open(&server.socket, ",reconnect-delay=60");
        let socket = server.socket.clone();
        let disk = Disk::serve(dir, image.clone(), node, 4, &context);
        let mut guest = Guest::connect(&disk.socket, 4, 256, true, Shadow::MEMORY).unwrap();
        let mut shadow = Shadow::new(vec![0; SIZE / 2], 5);
        let (is_done, kills) = (AtomicBool::new(false), AtomicUsize::new(0));
        let _server = std::thread::scope(|scope| {
            let killer = scope.spawn(|| {
                let mut server = server;
                while !is_done.load(Ordering::Relaxed) {
                    server.kill();
                    server = NbdServer::qemu_nbd(&socket, peer.arguments, &image);
                    kills.fetch_add(1, Ordering::Relaxed);
                }
                server
            });
            while kills.load(Ordering::Relaxed) < 5 {
                shadow.run(&mut guest, 40);
            }
            is_done.store(true, Ordering::Relaxed);
            let last = killer.join().unwrap();
            shadow.run(&mut guest, 40);
            last
        });
        drop(guest);
        assert_eq!(disk.stats().errors, 0, "{}", peer.name);
        let _dir = disk.close();
        let found = std::fs::read(&image).unwrap();
        assert!(found[..SIZE / 2] == *shadow.bytes(), "{}", peer.name);
    }
}
