//! Messages at random.
#![forbid(unsafe_code)]

use super::*;

/// Random well-framed messages, some valid, with fds of all kinds: no panic, nothing leaks, at most one answer each.
#[test]
fn random_messages_never_panic_and_never_leak() {
    for seed in 1..400 {
        let mut random = Random(seed * 7919);
        let (reader, writer) = canary();
        let mut bench = Bench::negotiated(2);
        for _ in 0..60 {
            let (request, payload, fds) = random_message(&mut random, &writer);
            let sent = bench.try_send(message(request, random.below(2) == 0, &payload, fds));
            while bench.session.is_waiting() {
                bench
                    .device
                    .finish_stops(u16::try_from(random.below(65536)).unwrap());
                let stopped = std::mem::take(&mut *bench.stopped.lock().unwrap());
                for (index, next) in stopped {
                    let _ = bench.session.queue_stopped(index, next, &mut bench.out);
                }
            }
            assert!(bench.out.len() <= 12 + 12 + 256);
            bench.out.clear();
            if sent.is_err() && random.below(4) == 0 {
                break;
            }
        }
        bench.session.close();
        while bench.device.finish_stops(0) {}
        drop((bench, writer));
        assert!(is_dead(reader));
    }
}

fn random_message(random: &mut Random, canary: &OwnedFd) -> (RequestCode, Vec<u8>, Vec<OwnedFd>) {
    let request = loop {
        let number = u32::try_from(random.below(40)).unwrap();
        if let Some(request) = RequestCode::from_number(number) {
            break request;
        }
    };
    let size = match request {
        RequestCode::SetVringAddr | RequestCode::AddMemReg | RequestCode::RemMemReg => 5,
        RequestCode::SetMemTable => 9,
        RequestCode::GetConfig | RequestCode::SetConfig => 4,
        RequestCode::GetFeatures
        | RequestCode::GetProtocolFeatures
        | RequestCode::GetQueueNum
        | RequestCode::GetMaxMemSlots
        | RequestCode::SetOwner
        | RequestCode::ResetOwner => 0,
        _ => 1,
    };
    let payload: Vec<u64> = (0..size).map(|_| random_word(random)).collect();
    let fds = (0..random.below(3))
        .map(|_| match random.below(3) {
            0 => eventfd(),
            1 => memfd(RAM),
            _ => canary.try_clone().unwrap(),
        })
        .collect();
    (request, words(&payload), fds)
}

fn random_word(random: &mut Random) -> u64 {
    match random.below(6) {
        0 => u64::MAX - random.below(3),
        1 => random.next(),
        2 => USER + random.below(2 * RAM),
        3 => 1 << random.below(64),
        _ => random.below(3),
    }
}
