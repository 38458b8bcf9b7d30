//! Disks that are only read, by front ends that compare all that they get: several on several contexts over one node, and one whose
//! image becomes another one meanwhile.
//!
//! Needs `qemu-img`; the tests say SKIP where that is not installed.
#![forbid(unsafe_code)]
#![cfg(all(feature = "vhost-user", feature = "monitor"))]
#![allow(clippy::unwrap_used)] // also in what tests call

use std::fs;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use support::directory::TestDir;
use support::front_end::{Guest, Io};
use support::over::Over;
use support::qemu_img::{check, missing, qemu_img};
use support::qmp::{Client, generic, returns};
use support::random::Random;
use support::server::Server;
use support::skip::skip;

const SIZE: usize = 4 << 20;
const QUEUES: usize = 2;
const DEPTH: usize = 8;
const PIECE: usize = 16 << 10;

fn random_bytes(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    Random(seed).fill(&mut bytes);
    bytes
}

/// A front end that reads a disk and knows what is on it.
struct Reader<'a> {
    guest: Guest,
    content: &'a [u8],
    random: Random,
}

impl<'a> Reader<'a> {
    fn new(directory: &TestDir, socket: &str, content: &'a [u8], seed: u64) -> Reader<'a> {
        let memory = QUEUES * DEPTH * PIECE;
        let socket = directory.socket(socket);
        Reader {
            guest: Guest::connect(&socket, QUEUES, 64, true, memory).unwrap(),
            content,
            random: Random(seed),
        }
    }

    /// Reads random places on all queues, many at the same time, and compares.
    fn read(&mut self) {
        let places: Vec<usize> = (0..QUEUES * DEPTH)
            .map(|_| 512 * self.random.index((SIZE - PIECE) / 512))
            .collect();
        for (slot, &offset) in places.iter().enumerate() {
            let io = Io {
                write: false,
                offset: offset as u64,
                segments: vec![(slot * PIECE, PIECE)],
            };
            self.guest.submit(slot / DEPTH, slot, &io);
        }
        for queue in 0..QUEUES {
            self.guest.kick(queue);
            let mut left = DEPTH;
            while left > 0 {
                for (slot, result) in self.guest.wait(queue) {
                    assert_eq!(result, 0, "a read at {}", places[slot]);
                    let found = &self.guest.memory.bytes()[slot * PIECE..][..PIECE];
                    let wanted = &self.content[places[slot]..][..PIECE];
                    assert!(found == wanted, "other data at {}", places[slot]);
                    left -= 1;
                }
            }
        }
    }
}

#[test]
fn readers_on_several_contexts_share_a_node() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let directory = TestDir::new();
    let content = random_bytes(1);
    fs::write(directory.file("disk.raw"), &content).unwrap();
    let convert = ["convert", "-O", "qcow2", "disk.raw", "disk.qcow2"];
    qemu_img(directory.path(), &convert);
    let mut line: Vec<String> = [
        "--blockdev",
        "qcow2,node-name=shared,read-only=on,file.driver=file,file.filename=disk.qcow2",
    ]
    .map(str::to_owned)
    .to_vec();
    for number in 0..3 {
        line.extend([
            "-object".to_owned(),
            format!("qcontext,id=ctx{number},threaded=on"),
            "-device".to_owned(),
            format!("virtio-blk,id=disk{number},drive=shared,num-queues=2,x-data-plane=on,context=ctx{number},vhost-user=d{number}.sock"),
        ]);
    }
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    let mut server = Server::start(&directory, &line);
    let together = Barrier::new(3);
    thread::scope(|scope| {
        for number in 0..3 {
            let (directory, content, together) = (&directory, &content, &together);
            scope.spawn(move || {
                let socket = format!("d{number}.sock");
                let mut reader = Reader::new(directory, &socket, content, number);
                for _ in 0..50 {
                    // All are at work at any time.
                    together.wait();
                    reader.read();
                }
            });
        }
    });
    for number in 0..3 {
        let disk = format!("/machine/peripheral/disk{number}");
        let reads = i64::try_from(50 * QUEUES * DEPTH).unwrap();
        assert_eq!(server.number(&format!("{disk}.reads")), reads);
        assert_eq!(server.number(&format!("{disk}.errors")), 0);
    }
    server.stop();
}

/// An image over another one, as nodes with names, and an export through which a guest can only read.
const IMAGE: &str = "-blockdev file,node-name=file,filename=top.qcow2 \
    -blockdev raw,node-name=base,file.driver=file,file.filename=base.raw,read-only=on \
    -blockdev qcow2,node-name=top,file=file,backing=base \
    -object iothread,id=io \
    -export vhost-user-blk,id=disk,node-name=top,num-queues=2,iothread=io,addr.type=unix,addr.path=d.sock";

fn image(directory: &TestDir, content: &[u8]) -> Server {
    fs::write(directory.file("base.raw"), content).unwrap();
    let create = [
        "create",
        "-f",
        "qcow2",
        "-b",
        "base.raw",
        "-F",
        "raw",
        "top.qcow2",
    ];
    qemu_img(directory.path(), &create);
    Server::start(directory, &IMAGE.split_whitespace().collect::<Vec<_>>())
}

fn reopen(client: &mut Client, options: &str) -> String {
    client.ask(format!(
        r#"{{"execute":"blockdev-reopen","arguments":{{"options":[{options}]}}}}"#
    ))
}

fn resize(client: &mut Client, length: usize) -> String {
    client.ask(format!(
        r#"{{"execute":"block_resize","arguments":{{"node-name":"top","size":{length}}}}}"#
    ))
}

fn nodes(client: &mut Client) -> String {
    client.ask(r#"{"execute":"query-named-block-nodes","arguments":{"flat":true}}"#)
}

#[test]
fn image_is_read_only_and_writable_again_while_a_guest_reads() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let directory = TestDir::new();
    let content = random_bytes(2);
    let mut server = image(&directory, &content);
    let mut client = server.client();
    let done = returns("{}");
    let (over, rounds_read) = (Over::default(), AtomicUsize::new(0));
    thread::scope(|scope| {
        let end = over.when_dropped();
        let guest = scope.spawn(|| {
            let mut reader = Reader::new(&directory, "d.sock", &content, 3);
            while !over.is_set() {
                reader.read();
                rounds_read.fetch_add(1, Ordering::Relaxed);
            }
        });
        for round in 0..20 {
            let image = r#""driver":"qcow2","node-name":"top","file":"file","backing":"base""#;
            let file = r#""driver":"file","node-name":"file","filename":"top.qcow2""#;
            let read_only = format!(r#"{{{image},"read-only":true}},{{{file},"read-only":true}}"#);
            assert_eq!(reopen(&mut client, &read_only), done);
            let length = SIZE + round * 65536;
            assert_eq!(resize(&mut client, length), generic("Image is read-only"));
            let is_direct = round % 2 == 0;
            let cache = format!(r#""cache":{{"direct":{is_direct}}}"#);
            let writable = format!("{{{image},{cache}}},{{{file},{cache}}}");
            assert_eq!(reopen(&mut client, &writable), done);
            let shown = nodes(&mut client)
                .matches(&format!(r#""direct": {is_direct}"#))
                .count();
            assert!(shown >= 2, "cache.direct of {shown} nodes");
            assert_eq!(resize(&mut client, length), done);
        }
        drop(end);
        guest.join().unwrap();
    });
    assert!(rounds_read.load(Ordering::Relaxed) > 0);
    drop(client);
    server.stop();
    check(directory.path(), "top.qcow2", false);
}

#[test]
fn image_loses_its_backing_file_by_null_and_gets_it_back() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let directory = TestDir::new();
    let (content, zeroes) = (random_bytes(4), vec![0; SIZE]);
    let mut server = image(&directory, &content);
    let mut client = server.client();
    let mut reader = Reader::new(&directory, "d.sock", &content, 5);
    reader.read();
    for (backing, expected) in [
        ("null", &zeroes),
        (r#""base""#, &content),
        ("null", &zeroes),
    ] {
        let options =
            format!(r#"{{"driver":"qcow2","node-name":"top","file":"file","backing":{backing}}}"#);
        assert_eq!(reopen(&mut client, &options), returns("{}"));
        reader.content = expected;
        reader.read();
    }
    let missing = r#"{"driver":"qcow2","node-name":"top","file":"file"}"#;
    assert_eq!(
        reopen(&mut client, missing),
        generic("backing is missing for 'top'")
    );
    drop((reader, client));
    server.stop();
}
