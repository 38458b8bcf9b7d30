//! Servers that are lost, silent or hostile.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::fake::{FakeConnection, FakeServer, SIZE};
use crate::block::options::blockdev;
use crate::block::request::Op;
use crate::block::test_rig::Rig;
use crate::nbd::protocol::export::transmission_flag;
use crate::nbd::protocol::handshake::{option, option_reply};
use crate::nbd::protocol::meta::{Extent, StatusChunk};
use crate::nbd::protocol::reply::{ChunkHeader, ErrorChunk, HoleChunk, SimpleReply, chunk};
use crate::object::options::parse_dotted;

mod lost;

const EIO: i32 = -libc::EIO;
/// How many requests of a test have sectors of their own.
const SECTORS: u64 = 64;

fn rig(server: &FakeServer, more: &str) -> Rig {
    Rig::new(("", &server.options(more))).unwrap()
}

/// Submits requests of one sector each, without memory.
fn submit(rig: &Rig, op: Op, tags: Range<u64>) {
    rig.submit(tags, |channel, tag| {
        let mut request = channel.request(op, tag % SECTORS * 512, tag);
        if op != Op::Flush {
            request.set_length(512);
        }
        request
    });
}

/// The same, and their results.
fn run(rig: &Rig, op: Op, tags: Range<u64>) -> Vec<i32> {
    submit(rig, op, tags.clone());
    let count = usize::try_from(tags.end).unwrap();
    rig.wait(|| rig.finished().len() >= count);
    let results = rig.finished().into_iter().map(|(_, result)| result);
    results.skip(usize::try_from(tags.start).unwrap()).collect()
}

/// A disk in memory, whose first connections end after so many requests, without an answer to the last one.
fn forgetful(lives: &'static [usize], flags: u16) -> (FakeServer, Arc<Mutex<Vec<u8>>>) {
    let disk = Arc::new(Mutex::new(vec![0; usize::try_from(SIZE).unwrap()]));
    let served = Arc::clone(&disk);
    let server = FakeServer::new(move |mut connection| {
        if connection.negotiate(flags).is_none() {
            return;
        }
        match lives.get(connection.number) {
            Some(count) => {
                connection.serve(&served, *count);
                connection.request();
            }
            None => connection.serve(&served, usize::MAX),
        }
    });
    (server, disk)
}

#[test]
fn a_queue_has_a_connection_of_its_own_if_the_server_allows_that() {
    for (flags, expected) in [(transmission_flag::CAN_MULTI_CONN, 3), (0, 1)] {
        let (server, _disk) = forgetful(&[], flags);
        let first = rig(&server, "");
        let others = [Rig::over(&first.edge.node()), Rig::over(&first.edge.node())];
        assert_eq!(run(&first, Op::Read, 0..8), [0; 8]);
        let mut tags = 0..8;
        let connections = || server.connections.load(Ordering::Relaxed);
        for _ in 0..3 {
            for other in &others {
                assert_eq!(run_beside(&first, other, Op::Read, tags.clone()), [0; 8]);
            }
            tags = tags.end..tags.end + 8;
            if flags != 0 {
                others[0].wait(|| {
                    others[1].iterate(1);
                    connections() == expected
                });
            }
        }
        assert_eq!(connections(), expected);
    }
}

/// Runs reads of one rig, while the home of the main connection, another rig, goes round as well.
fn run_beside(home: &Rig, rig: &Rig, op: Op, tags: Range<u64>) -> Vec<i32> {
    submit(rig, op, tags.clone());
    let count = usize::try_from(tags.end).unwrap();
    rig.wait(|| {
        home.iterate(1);
        rig.finished().len() >= count
    });
    let results = rig.finished().into_iter().map(|(_, result)| result);
    results.skip(usize::try_from(tags.start).unwrap()).collect()
}

#[test]
fn the_main_connection_stays_when_its_home_goes() {
    let (server, _disk) = forgetful(&[], 0);
    let first = rig(&server, "");
    let second = Rig::over(&first.edge.node());
    assert_eq!(run(&first, Op::Read, 0..2), [0; 2]);
    drop(first.channel().take());
    assert_eq!(run(&second, Op::Read, 0..2), [0; 2]);
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
}

/// Bytes that answer a read of the first sector.
type Answer = fn(u64) -> Vec<u8>;

fn message(kind: u16, flags: u16, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let header = ChunkHeader {
        flags,
        kind,
        cookie,
        offset: 0,
        length: payload.len() as u64,
    };
    [&header.encode(), payload].concat()
}

fn data(offset: u64, count: usize) -> Vec<u8> {
    [&offset.to_be_bytes(), vec![1; count].as_slice()].concat()
}

fn hole(offset: u64, length: u32) -> [u8; HoleChunk::LEN] {
    HoleChunk { offset, length }.encode()
}

const WRONG_ANSWERS: [(&str, Answer); 20] = [
    ("no reply", |_| b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
    ("another cookie", |cookie| {
        message(chunk::OFFSET_DATA, 1, cookie ^ 1, &data(0, 512))
    }),
    ("the cookie of an earlier round", |cookie| {
        let earlier = cookie.wrapping_sub(1 << 32);
        message(chunk::OFFSET_DATA, 1, earlier, &data(0, 512))
    }),
    ("a simple reply to a read", |cookie| {
        let reply = SimpleReply { error: 0, cookie };
        [reply.encode().as_slice(), &[1; 512]].concat()
    }),
    ("an extended header", |cookie| {
        let header = ChunkHeader {
            flags: 1,
            kind: chunk::OFFSET_DATA,
            cookie,
            offset: 0,
            length: 520,
        };
        [header.encode_extended().as_slice(), &data(0, 512)].concat()
    }),
    ("too much data", |cookie| {
        message(chunk::OFFSET_DATA, 1, cookie, &data(0, 513))
    }),
    ("too little data", |cookie| {
        message(chunk::OFFSET_DATA, 1, cookie, &data(0, 511))
    }),
    ("no data", |cookie| message(chunk::NONE, 1, cookie, &[])),
    ("an empty chunk of data", |cookie| {
        message(chunk::OFFSET_DATA, 0, cookie, &data(0, 0))
    }),
    ("data before the range", |cookie| {
        message(chunk::OFFSET_DATA, 1, cookie, &data(u64::MAX, 512))
    }),
    ("data beyond the range", |cookie| {
        message(chunk::OFFSET_DATA, 1, cookie, &data(1, 512))
    }),
    ("data twice", |cookie| {
        let one = message(chunk::OFFSET_DATA, 0, cookie, &data(0, 512));
        [one.clone(), one].concat()
    }),
    ("a hole beyond the range", |cookie| {
        message(chunk::OFFSET_HOLE, 1, cookie, &hole(512, 512))
    }),
    ("a hole that is too long", |cookie| {
        message(chunk::OFFSET_HOLE, 1, cookie, &hole(0, u32::MAX))
    }),
    ("a chunk without an end", |cookie| {
        message(chunk::NONE, 0, cookie, &[])
    }),
    ("a payload without an end", |cookie| {
        let mut bytes = message(chunk::ERROR, 1, cookie, &[]);
        bytes[16..20].fill(255);
        bytes
    }),
    ("errors without an end", |cookie| {
        let error = ErrorChunk {
            error: 5,
            message: "no".into(),
            offset: None,
        };
        message(chunk::ERROR, 0, cookie, &error.encode()).repeat(20)
    }),
    ("an error without an error", |cookie| {
        message(chunk::ERROR, 1, cookie, &[0; 6])
    }),
    ("a block status", |cookie| {
        let status = StatusChunk {
            context: 7,
            extents: vec![Extent {
                length: 512,
                flags: 0,
            }],
        };
        message(chunk::BLOCK_STATUS, 1, cookie, &status.encode())
    }),
    ("a chunk of an unknown type", |cookie| {
        message(99, 1, cookie, &[])
    }),
];

#[test]
fn a_server_that_breaks_the_protocol_is_not_asked_again() {
    for (name, answer) in WRONG_ANSWERS {
        let server = FakeServer::new(move |mut connection| {
            connection.negotiate(0);
            if let Some((asked, _)) = connection.request() {
                connection.send(&answer(asked.cookie));
            }
            while connection.request().is_some() {}
        });
        let rig = rig(&server, ",reconnect-delay=4000");
        assert_eq!(run(&rig, Op::Read, 0..1), [EIO], "{name}");
        assert_eq!(run(&rig, Op::Flush, 1..2), [EIO], "{name}");
        assert_eq!(server.connections.load(Ordering::Relaxed), 1, "{name}");
    }
}

#[test]
fn an_answer_in_pieces_is_one_answer() {
    let server = FakeServer::new(|mut connection| {
        connection.negotiate(0);
        while let Some((asked, _)) = connection.request() {
            let chunks = [
                message(chunk::OFFSET_HOLE, 0, asked.cookie, &hole(0, 100)),
                message(chunk::OFFSET_DATA, 0, asked.cookie, &data(300, 212)),
                message(chunk::OFFSET_DATA, 0, asked.cookie, &data(100, 200)),
                message(chunk::NONE, 1, asked.cookie, &[]),
            ];
            for byte in chunks.concat() {
                connection.send(&[byte]);
            }
        }
    });
    let rig = rig(&server, "");
    let memory = Mutex::new(vec![9; 512]);
    rig.submit(0..1, |channel, tag| {
        let mut request = channel.request(Op::Read, 0, tag);
        request.set_memory(&mut memory.lock().unwrap());
        request
    });
    rig.wait(|| rig.finished().len() == 1);
    assert_eq!(rig.finished(), [(0, 0)]);
    let mut expected = [1; 512];
    expected[..100].fill(0);
    assert_eq!(memory.into_inner().unwrap(), expected);
}

/// What a server says to the client's first option, and what comes of it.
type Negotiation = fn(&mut FakeConnection);

fn reply_for_ever(connection: &mut FakeConnection, chosen: u32, reply: u32, data: &[u8]) {
    for _ in 0..1000 {
        connection.reply(chosen, reply, data);
    }
}

const WRONG_NEGOTIATIONS: [(&str, Negotiation); 9] = [
    (
        "The NBD server has closed the connection: unexpected end of file",
        |_| {},
    ),
    ("NBD: peer is not an NBD server", |connection| {
        connection.send(&[b'x'; 18]);
    }),
    ("NBD: server is of the oldstyle", |connection| {
        connection.send(b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53\x00\x00");
    }),
    ("NBD: reply has a wrong magic number", |connection| {
        connection.greet();
        connection.option();
        connection.send(&[0; 20]);
    }),
    ("NBD: server replies to another option", |connection| {
        connection.greet();
        connection.option();
        connection.reply(option::LIST, option_reply::ACK, b"");
    }),
    ("NBD: server has no end of replies", |connection| {
        connection.greet();
        let chosen = connection.option().unwrap().option;
        reply_for_ever(connection, chosen, option_reply::INFO, b"xx");
    }),
    ("NBD: server's reply is too long", |connection| {
        connection.greet();
        let chosen = connection.option().unwrap().option;
        connection.reply(chosen, option_reply::INFO, &[0; 20_000]);
    }),
    ("NBD: broken server omitted NBD_INFO_EXPORT", |connection| {
        connection.greet();
        while let Some(chosen) = connection.option() {
            connection.reply(chosen.option, option_reply::ACK, b"");
        }
    }),
    (
        "Requested export not available: server reported: it is [2J gone",
        |connection| {
            connection.greet();
            while let Some(chosen) = connection.option() {
                let text = b"it is \x1b[2J gone";
                connection.reply(chosen.option, option_reply::ERR_UNKNOWN, text);
            }
        },
    ),
];

#[test]
fn negotiations_that_go_wrong() {
    for (expected, negotiate) in WRONG_NEGOTIATIONS {
        let server = FakeServer::new(move |mut connection| negotiate(&mut connection));
        let text = format!("node-name=wrong,{}", server.options(""));
        let opened = blockdev(parse_dotted("driver", &text).unwrap());
        assert_eq!(opened.unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_node_opens_when_its_server_comes_in_time() {
    let failures = Arc::new(AtomicUsize::new(0));
    let failed = Arc::clone(&failures);
    let server = FakeServer::new(move |mut connection| {
        if connection.number < 2 {
            failed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        connection.negotiate(0);
        connection.request();
    });
    drop(rig(&server, ",open-timeout=60"));
    assert_eq!(failures.load(Ordering::Relaxed), 2);
}
