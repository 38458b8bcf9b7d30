//! Messages that are refused, and what they leave as it was.
#![forbid(unsafe_code)]

use super::*;

fn pipe() -> OwnedFd {
    canary().1
}

/// Each bad message is refused with a negative acknowledgement, and closes the connection when none was asked for.
#[test]
fn bad_messages_are_refused_and_change_nothing() {
    type Case = (RequestCode, Vec<u8>, fn() -> Vec<OwnedFd>, &'static str);
    let none: fn() -> Vec<OwnedFd> = Vec::new;
    let cases: Vec<Case> = vec![
        (
            RequestCode::SetFeatures,
            words(&[1 << 63]),
            none,
            "not offer",
        ),
        (
            RequestCode::SetFeatures,
            words(&[1 << 26]),
            none,
            "not offer",
        ),
        (
            RequestCode::SetProtocolFeatures,
            words(&[2]),
            none,
            "not offer",
        ),
        (RequestCode::SetVringNum, pair(2, 128), none, "queue 2"),
        (
            RequestCode::SetVringNum,
            pair(u32::MAX, 128),
            none,
            "names queue",
        ),
        (RequestCode::SetVringNum, pair(0, 0), none, "power of two"),
        (RequestCode::SetVringNum, pair(0, 100), none, "power of two"),
        (
            RequestCode::SetVringNum,
            pair(0, 2048),
            none,
            "power of two",
        ),
        (
            RequestCode::SetVringNum,
            pair(0, 65536),
            none,
            "power of two",
        ),
        (
            RequestCode::SetVringBase,
            pair(0, 65536),
            none,
            "at most 65535",
        ),
        (RequestCode::SetVringBase, pair(9, 0), none, "queue 9"),
        (
            RequestCode::SetVringAddr,
            addr(0, DESC, USED, 0x1000),
            none,
            "available ring",
        ),
        (
            RequestCode::SetVringAddr,
            addr(0, u64::MAX, USED, AVAIL),
            none,
            "descriptor table",
        ),
        (
            RequestCode::SetVringAddr,
            addr(0, DESC, USER + RAM, AVAIL),
            none,
            "used ring",
        ),
        (RequestCode::SetVringKick, words(&[0]), none, "carries none"),
        (RequestCode::SetVringKick, words(&[1 << 8]), none, "poll"),
        (
            RequestCode::SetVringKick,
            words(&[0]),
            || vec![pipe()],
            "expected an eventfd",
        ),
        (
            RequestCode::SetVringKick,
            words(&[0]),
            || vec![memfd(8)],
            "expected an eventfd",
        ),
        (
            RequestCode::SetVringCall,
            words(&[1]),
            || vec![pipe()],
            "expected an eventfd",
        ),
        (
            RequestCode::SetVringErr,
            words(&[1]),
            || vec![pipe()],
            "expected an eventfd",
        ),
        (
            RequestCode::SetVringCall,
            words(&[200]),
            || vec![eventfd()],
            "queue 200",
        ),
        (RequestCode::SetVringEnable, pair(2, 1), none, "queue 2"),
        (RequestCode::SetVringEnable, pair(0, 7), none, "0 or 1"),
        (RequestCode::AddMemReg, ram(1), none, "no fd"),
        (
            RequestCode::AddMemReg,
            ram(0),
            || vec![memfd(RAM)],
            "overlap",
        ),
        (
            RequestCode::AddMemReg,
            words(&[0, u64::MAX, 4096, USER, 0]),
            || vec![memfd(RAM)],
            "",
        ),
        (
            RequestCode::AddMemReg,
            words(&[0, RAM, 4096, u64::MAX, 0]),
            || vec![memfd(RAM)],
            "",
        ),
        (
            RequestCode::AddMemReg,
            words(&[0, RAM, 4096, USER + RAM, u64::MAX - 100]),
            || vec![memfd(RAM)],
            "",
        ),
        (
            RequestCode::AddMemReg,
            words(&[0, RAM, 0, USER + RAM, 0]),
            || vec![memfd(RAM)],
            "",
        ),
        (
            RequestCode::AddMemReg,
            words(&[0, RAM, 2 * RAM, USER + RAM, 0]),
            || vec![memfd(RAM)],
            "",
        ),
        (RequestCode::RemMemReg, ram(1), none, ""),
        (RequestCode::SetMemTable, pair(2, 0), none, ""),
        (
            RequestCode::SetMemTable,
            pair(0, 0),
            || vec![memfd(RAM)],
            "one each",
        ),
    ];
    for (request, payload, fds, expected) in cases {
        let mut bench = Bench::negotiated(2);
        let refused = bench
            .try_send(message(request, true, &payload, fds()))
            .unwrap();
        let text = refused.expect("a refusal").to_string();
        assert!(text.contains(expected), "{request:?}: {text}");
        assert_eq!(bench.u64_reply(request), 1, "{request:?}");
        assert_eq!(bench.session.memory.region_count(), 1);
        assert_eq!(bench.device.calls(), []);
        let silent = bench.try_send(message(request, false, &payload, fds()));
        assert!(silent.is_err(), "{request:?}");
        assert_eq!(bench.out, []);
    }
}

#[test]
fn changes_to_a_running_queue_are_refused() {
    for (request, payload) in [
        (RequestCode::SetVringNum, pair(0, 256)),
        (RequestCode::SetVringBase, pair(0, 1)),
        (RequestCode::SetVringAddr, addr(0, DESC, USED, AVAIL)),
    ] {
        let mut bench = Bench::running(1);
        assert_eq!(bench.acked(request, &payload, Vec::new()), 1);
        assert_eq!(bench.device.calls(), []);
    }
}

#[test]
fn unknown_request_is_refused() {
    let mut bench = Bench::negotiated(1);
    let unknown = |flags| Message {
        header: Header {
            number: 31,
            flags,
            size: 0,
        },
        payload: Vec::new(),
        fds: Vec::new(),
    };
    assert!(bench.try_send(unknown(9)).unwrap().is_some());
    assert_eq!(bench.out.len(), 20);
    assert!(bench.try_send(unknown(1)).is_err());
}
