//! The device's configuration space, and how a front end hears that it has changed.
#![forbid(unsafe_code)]

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use super::*;

#[test]
fn config_answers_have_the_asked_size_and_errors_are_empty() {
    let mut bench = Bench::negotiated(1);
    for (offset, size) in [(0u32, 60u32), (0, 57), (20, 8), (0, 256), (255, 1), (0, 0)] {
        let mut payload = pair(offset, size);
        payload.extend([0; 4]);
        bench.ok(RequestCode::GetConfig, &payload);
        let reply = bench.reply(RequestCode::GetConfig);
        assert_eq!(reply[..8], payload[..8]);
        assert_eq!(reply.len(), 12 + size as usize);
        if size > 0 {
            assert_eq!(u32::from(reply[12]), offset & 0x7f);
        }
    }
    let mut payload = pair(200, 100);
    payload.extend([0; 4]);
    bench.ok(RequestCode::GetConfig, &payload);
    assert_eq!(bench.reply(RequestCode::GetConfig), []);
}

#[test]
fn set_config_reaches_the_device() {
    let mut bench = Bench::negotiated(1);
    let mut payload = pair(32, 1);
    payload.extend([0, 0, 0, 0, 1]);
    assert_eq!(bench.acked(RequestCode::SetConfig, &payload, Vec::new()), 0);
    assert_eq!(bench.device.calls(), [Asked::WriteConfig(32, vec![1])]);
    payload[4] = 2;
    assert_eq!(bench.acked(RequestCode::SetConfig, &payload, Vec::new()), 1);
}

/// A front end that has sent its end of a second socket; ours for reading.
pub(super) fn with_backend_channel(bench: &mut Bench) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let fds = vec![OwnedFd::from(theirs)];
    assert_eq!(bench.acked(RequestCode::SetBackendReqFd, &[], fds), 0);
    ours
}

/// The message that says so: number 2, version 1, no payload, no reply wanted.
const CHANGED: [u8; 12] = [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn a_changed_configuration_is_reported_on_the_second_socket() {
    let mut bench = Bench::negotiated(1);
    assert!(!bench.device.change_config(), "no front end listens yet");
    let mut first = with_backend_channel(&mut bench);
    assert!(bench.device.change_config());
    let mut bytes = [0; 13];
    assert_eq!(first.read(&mut bytes).unwrap(), 12);
    assert_eq!(bytes[..12], CHANGED);
    let mut second = with_backend_channel(&mut bench);
    bench.device.change_config();
    assert_eq!(
        first.read(&mut bytes).unwrap(),
        0,
        "the first one is closed"
    );
    assert_eq!(second.read(&mut bytes).unwrap(), 12);
    bench.session.close();
    assert!(!bench.device.change_config());
    assert_eq!(second.read(&mut bytes).unwrap(), 0);
}

#[test]
fn a_front_end_that_does_not_read_or_has_gone_stops_nothing() {
    let mut bench = Bench::negotiated(1);
    let mut ours = with_backend_channel(&mut bench);
    for _ in 0..100_000 {
        bench.device.change_config();
    }
    let mut read = Vec::new();
    let error = ours.read_to_end(&mut read).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!(!read.is_empty() && read.chunks(12).all(|message| message == CHANGED));
    // What the front end says there is not asked for, and not read.
    ours.write_all(&CHANGED).unwrap();
    drop(ours);
    bench.device.change_config();
}

#[test]
fn the_second_socket_needs_its_protocol_feature_and_is_a_socket() {
    let mut bench = Bench::negotiated(1);
    assert_eq!(
        bench.acked(RequestCode::SetBackendReqFd, &[], Vec::new()),
        1
    );
    let (pipe, no_socket) = canary();
    assert_eq!(
        bench.acked(RequestCode::SetBackendReqFd, &[], vec![no_socket]),
        1
    );
    assert!(is_dead(pipe));
    let without = PROTOCOL_FEATURES & !PROTOCOL_BACKEND_REQ;
    bench.ok(RequestCode::SetProtocolFeatures, &words(&[without]));
    let (reader, writer) = canary();
    assert_eq!(
        bench.acked(RequestCode::SetBackendReqFd, &[], vec![writer]),
        1
    );
    assert!(is_dead(reader));
}

#[test]
fn a_front_end_without_configuration_space_gets_no_report() {
    let mut bench = Bench::negotiated(1);
    let without = PROTOCOL_FEATURES & !PROTOCOL_CONFIG;
    bench.ok(RequestCode::SetProtocolFeatures, &words(&[without]));
    let _ours = with_backend_channel(&mut bench);
    assert!(!bench.device.change_config());
}
