//! Messages as they come, right and wrong.
#![forbid(unsafe_code)]

use super::*;

fn header(number: u32, flags: u32, size: u32) -> [u8; HEADER_SIZE] {
    let mut bytes = [0; HEADER_SIZE];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..8].copy_from_slice(&flags.to_le_bytes());
    bytes[8..].copy_from_slice(&size.to_le_bytes());
    bytes
}

#[test]
fn header_with_wrong_version_reply_flag_or_size_is_refused() {
    let cases = [
        (header(1, 0, 0), "version"),
        (header(1, 2, 0), "version"),
        (header(1, 5, 0), "reply"),
        (header(2, 1, 7), "bytes of payload"),
        (header(9, 1, 41), "bytes of payload"),
        (header(5, 1, 265), "bytes of payload"),
        (header(24, 9, 269), "bytes of payload"),
        (header(99, 1, 4097), "bytes of payload"),
        (header(u32::MAX, 1, u32::MAX), "bytes of payload"),
    ];
    for (bytes, expected) in cases {
        let error = Header::parse(&bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn unknown_request_of_moderate_size_is_framed() {
    let parsed = Header::parse(&header(99, 9, 4096)).unwrap();
    assert_eq!(parsed.request(), None);
    assert!(parsed.needs_reply());
    assert_eq!(parsed.name(), "message 99");
}

#[test]
fn every_known_request_is_found_by_its_number() {
    for request in RequestCode::ALL {
        assert_eq!(RequestCode::from_number(request as u32), Some(request));
    }
}

#[test]
fn config_window_beyond_256_bytes_is_refused() {
    for (offset, size) in [(0u32, 257u32), (200, 57), (u32::MAX, 1), (1, u32::MAX)] {
        let mut payload = Vec::new();
        payload.extend_from_slice(&offset.to_le_bytes());
        payload.extend_from_slice(&size.to_le_bytes());
        payload.extend_from_slice(&0u32.to_le_bytes());
        let parsed = Header::parse(&header(24, 1, 12)).unwrap();
        let message = Message::new(parsed, payload, Vec::new());
        assert!(message.config_window().is_err(), "{offset}+{size}");
    }
}

#[test]
fn memory_table_count_is_checked_against_the_bytes_present() {
    let parsed = Header::parse(&header(5, 1, 40)).unwrap();
    for (count, good) in [(0u32, true), (1, true), (2, false), (9, false)] {
        let mut payload = vec![0; 40];
        payload[..4].copy_from_slice(&count.to_le_bytes());
        let message = Message::new(parsed, payload, Vec::new());
        assert_eq!(message.mem_table().is_ok(), good, "{count} regions");
    }
}
