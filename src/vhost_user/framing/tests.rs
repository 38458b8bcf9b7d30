//! Messages in pieces, in heaps, and with fds that ride on them.
#![forbid(unsafe_code)]

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use virtio_driver::ScmSocket;

use super::super::fake::{Random, bytes, canary, is_dead, memfd};
use super::*;

/// Sends `data[from..to]`, with an fd on its first byte where a message that has one begins there.
fn send(peer: &UnixStream, data: &[u8], from: usize, to: usize, fds: &[(usize, &OwnedFd)]) {
    let here: Vec<_> = fds.iter().filter(|(at, _)| *at == from).collect();
    let raw: Vec<_> = here.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
    assert_eq!(
        peer.send_with_fds(&[IoSlice::new(&data[from..to])], &raw)
            .unwrap(),
        to - from
    );
}

fn inode(fd: &OwnedFd) -> u64 {
    rustix::fs::fstat(fd).unwrap().st_ino
}

fn drain(reader: &mut Reader, socket: &UnixStream, into: &mut Vec<Message>) {
    while let ReadOutcome::Message(message) = reader.read(socket.as_fd()).unwrap() {
        into.push(message);
    }
}

/// kick with an fd, get-features, call with an fd, get-config with a payload: where each begins, and all the bytes.
fn four_messages() -> (Vec<u8>, usize) {
    let mut data = bytes(12, false, &7u64.to_le_bytes());
    data.extend(bytes(1, false, &[]));
    let second_fd = data.len();
    data.extend(bytes(13, true, &9u64.to_le_bytes()));
    data.extend(bytes(24, false, &[0; 72]));
    (data, second_fd)
}

fn check_four(messages: &[Message], kick: &OwnedFd, call: &OwnedFd) {
    let numbers: Vec<_> = messages.iter().map(|m| m.header.number).collect();
    assert_eq!(numbers, [12, 1, 13, 24]);
    let fds: Vec<_> = messages.iter().map(|m| m.fds.len()).collect();
    assert_eq!(fds, [1, 0, 1, 0]);
    assert_eq!(inode(&messages[0].fds[0]), inode(kick));
    assert_eq!(inode(&messages[2].fds[0]), inode(call));
    assert_eq!(messages[0].u64().unwrap(), 7);
    assert_eq!(messages[2].u64().unwrap(), 9);
    assert_eq!(messages[3].payload.len(), 72);
}

#[test]
fn messages_split_at_every_position_keep_their_fds() {
    let (kick, call) = (memfd(1), memfd(2));
    let (data, second_fd) = four_messages();
    let fds = [(0, &kick), (second_fd, &call)];
    for split in 1..data.len() {
        let (peer, ours) = UnixStream::pair().unwrap();
        let mut cuts = vec![0, split, second_fd, data.len()];
        cuts.sort_unstable();
        cuts.dedup();
        let (mut reader, mut messages) = (Reader::default(), Vec::new());
        for cut in cuts.windows(2) {
            send(&peer, &data, cut[0], cut[1], &fds);
            drain(&mut reader, &ours, &mut messages);
        }
        check_four(&messages, &kick, &call);
    }
}

#[test]
fn messages_arriving_byte_by_byte_keep_their_fds() {
    let (kick, call) = (memfd(1), memfd(2));
    let (data, second_fd) = four_messages();
    let (peer, ours) = UnixStream::pair().unwrap();
    let (mut reader, mut messages) = (Reader::default(), Vec::new());
    for at in 0..data.len() {
        send(&peer, &data, at, at + 1, &[(0, &kick), (second_fd, &call)]);
        drain(&mut reader, &ours, &mut messages);
    }
    check_four(&messages, &kick, &call);
}

#[test]
fn messages_waiting_together_keep_their_fds() {
    let (kick, call) = (memfd(1), memfd(2));
    let (data, second_fd) = four_messages();
    let fds = [(0, &kick), (second_fd, &call)];
    let (peer, ours) = UnixStream::pair().unwrap();
    send(&peer, &data, 0, second_fd, &fds);
    send(&peer, &data, second_fd, data.len(), &fds);
    let (mut reader, mut messages) = (Reader::default(), Vec::new());
    drain(&mut reader, &ours, &mut messages);
    check_four(&messages, &kick, &call);
}

#[test]
fn received_fds_are_close_on_exec() {
    let (peer, ours) = UnixStream::pair().unwrap();
    let fd = memfd(1);
    let data = bytes(12, false, &[0; 8]);
    send(&peer, &data, 0, data.len(), &[(0, &fd)]);
    let (mut reader, mut messages) = (Reader::default(), Vec::new());
    drain(&mut reader, &ours, &mut messages);
    let flags = rustix::io::fcntl_getfd(&messages[0].fds[0]).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
}

#[test]
fn fds_that_a_message_may_not_carry_are_closed() {
    let (peer, ours) = UnixStream::pair().unwrap();
    let (first, a) = canary();
    let (second, b) = canary();
    let data = bytes(1, false, &[]);
    send(&peer, &data, 0, data.len(), &[(0, &a), (0, &b)]);
    drop((a, b));
    let (mut reader, mut messages) = (Reader::default(), Vec::new());
    drain(&mut reader, &ours, &mut messages);
    assert!(messages[0].fds.is_empty());
    assert!(is_dead(first) && is_dead(second));
}

#[test]
fn fd_floods_are_refused_and_closed() {
    for count in [9, 16, 17, 60] {
        let (peer, ours) = UnixStream::pair().unwrap();
        let (end, fd) = canary();
        let data = bytes(5, false, &[0; 8]);
        let fds = vec![(0, &fd); count];
        send(&peer, &data, 0, data.len(), &fds);
        drop(fd);
        let mut reader = Reader::default();
        let error = reader.read(ours.as_fd()).unwrap_err();
        assert!(error.to_string().contains("fds"), "{count}: {error}");
        drop((reader, ours));
        assert!(is_dead(end), "{count} fds");
    }
}

#[test]
fn fds_of_an_unfinished_message_are_closed_with_the_reader() {
    let (peer, ours) = UnixStream::pair().unwrap();
    let (end, fd) = canary();
    send(&peer, &[12, 0, 0], 0, 3, &[(0, &fd)]);
    drop(fd);
    let mut reader = Reader::default();
    assert!(matches!(
        reader.read(ours.as_fd()).unwrap(),
        ReadOutcome::Pending
    ));
    drop(reader);
    assert!(is_dead(end));
}

#[test]
fn end_of_stream_between_messages_is_closed_and_within_one_an_error() {
    let data = bytes(24, false, &[0; 12]);
    for sent in 0..data.len() {
        let (peer, ours) = UnixStream::pair().unwrap();
        if sent > 0 {
            send(&peer, &data, 0, sent, &[]);
        }
        drop(peer);
        let result = Reader::default().read(ours.as_fd());
        assert_eq!(
            matches!(result, Ok(ReadOutcome::Closed)),
            sent == 0,
            "{sent}"
        );
        assert_eq!(result.is_err(), sent != 0, "{sent}");
    }
}

#[test]
fn garbage_never_panics_and_never_outgrows_a_message() {
    for seed in 1..300 {
        let mut random = Random(seed);
        let (peer, ours) = UnixStream::pair().unwrap();
        let data: Vec<u8> = (0..600)
            .map(|_| match random.below(3) {
                0 => u8::try_from(random.below(256)).unwrap(),
                1 => 1,
                _ => 0,
            })
            .collect();
        send(&peer, &data, 0, data.len(), &[]);
        drop(peer);
        let mut reader = Reader::default();
        while let Ok(ReadOutcome::Message(message)) = reader.read(ours.as_fd()) {
            assert!(message.payload.len() <= 4096);
        }
        assert!(reader.payload.len() <= 4096);
    }
}

#[test]
fn writer_keeps_what_the_socket_does_not_take_and_sends_it_later() {
    let (peer, ours) = UnixStream::pair().unwrap();
    let mut writer = Writer::default();
    let data: Vec<u8> = (0..4_000_000u32)
        .map(|i| i.to_le_bytes()[0] ^ i.to_le_bytes()[1])
        .collect();
    writer.buffer().extend_from_slice(&data);
    writer.flush(ours.as_fd()).unwrap();
    assert!(!writer.is_empty());
    let mut got = Vec::new();
    let mut chunk = vec![0; 1 << 16];
    while got.len() < data.len() {
        let read = std::io::Read::read(&mut &peer, &mut chunk).unwrap();
        got.extend_from_slice(&chunk[..read]);
        writer.flush(ours.as_fd()).unwrap();
    }
    assert!(writer.is_empty() && got == data);
}

#[test]
fn writing_to_a_peer_that_is_gone_is_an_error_not_a_signal() {
    let (peer, ours) = UnixStream::pair().unwrap();
    drop(peer);
    let mut writer = Writer::default();
    writer.buffer().push(0);
    assert_eq!(
        writer.flush(ours.as_fd()).unwrap_err().raw_os_error(),
        Some(libc::EPIPE)
    );
}
