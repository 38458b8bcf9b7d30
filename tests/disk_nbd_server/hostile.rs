//! Clients that send what makes no sense. After each one the server serves a good one, and in the end it stops well.
#![forbid(unsafe_code)]

use std::io::Write;
use std::net::Shutdown;

use qcontext::nbd::protocol::handshake::OptionHeader;
use qcontext::nbd::protocol::request::{RequestHeader, command};
use support::random::Random;

use super::peer::{Peer, Style};
use super::{connect, serve};

/// Sends as much as the server takes, and hangs up.
fn send_and_go(mut peer: Peer, bytes: &[u8]) {
    let _ = peer.stream.write_all(bytes);
    let _ = peer.stream.shutdown(Shutdown::Write);
    assert!(peer.is_hung_up());
}

#[test]
fn random_bytes_in_place_of_the_negotiation_end_one_connection() {
    let (directory, mut server) = serve(&[]);
    let socket = directory.socket("nbd.sock");
    let mut random = Random(1);
    for round in 0..300 {
        let mut bytes = vec![0; random.index(300)];
        random.fill(&mut bytes);
        let mut peer = Peer::connect(&socket);
        // In the second half, behind a good beginning.
        if round >= 150 {
            peer.greet();
            let header = OptionHeader {
                option: u32::try_from(random.below(12)).unwrap(),
                length: u32::try_from(bytes.len()).unwrap(),
            };
            bytes.splice(0..0, header.encode());
        }
        send_and_go(peer, &bytes);
    }
    assert_eq!(
        connect(&directory, Style::Structured)
            .ask(command::READ, 0, 0, 512)
            .error,
        0
    );
    server.stop();
}

#[test]
fn lengths_that_cannot_be_are_refused_without_memory_for_them() {
    let (directory, mut server) = serve(&[]);
    let socket = directory.socket("nbd.sock");
    for number in 0..12 {
        for length in [0xffff_ffff_u32, 0x8000_0000, 1 << 25, 65_537] {
            let mut peer = Peer::connect(&socket);
            peer.greet();
            let header = OptionHeader {
                option: number,
                length,
            };
            send_and_go(peer, &header.encode());
        }
    }
    for style in [Style::Simple, Style::Structured, Style::Extended] {
        for number in 0..10 {
            for length in [u64::MAX, u64::MAX - 511, 1 << 63, 1 << 32, 1 << 26] {
                let mut peer = connect(&directory, style);
                peer.send(number, 0, u64::MAX - length, length, &[]);
                let _ = peer.stream.shutdown(Shutdown::Write);
                assert!(peer.is_hung_up(), "{style:?} {number} {length}");
            }
        }
    }
    assert_eq!(
        connect(&directory, Style::Structured)
            .ask(command::READ, 0, 0, 512)
            .error,
        0
    );
    server.stop();
}

#[test]
fn mangled_requests_do_no_harm() {
    let (directory, mut server) = serve(&[]);
    let mut random = Random(2);
    for round in 0..300 {
        let style = [Style::Simple, Style::Structured, Style::Extended][round % 3];
        let peer = connect(&directory, style);
        let mut bytes = Vec::new();
        for _ in 0..random.index(20) {
            let header = RequestHeader {
                flags: u16::try_from(random.below(64)).unwrap(),
                command: u16::try_from(random.below(9)).unwrap(),
                cookie: random.number(),
                offset: random.below(5 << 20),
                length: random.below(1 << 16),
            };
            match style {
                Style::Extended => bytes.extend(header.encode_extended()),
                _ => bytes.extend(header.encode()),
            }
            if header.command == command::WRITE {
                bytes.resize(bytes.len() + usize::try_from(header.length).unwrap(), 5);
            }
        }
        for _ in 0..random.index(4) {
            if !bytes.is_empty() {
                let place = random.index(bytes.len().min(64));
                bytes[place] ^= 1 << random.below(8);
            }
        }
        send_and_go(peer, &bytes);
    }
    assert_eq!(
        connect(&directory, Style::Structured)
            .ask(command::READ, 0, 0, 512)
            .error,
        0
    );
    server.stop();
}
