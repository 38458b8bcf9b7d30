//! Every message order that front ends use, and many that they should not.
#![forbid(unsafe_code)]

mod config;
mod front_ends;
mod random;
mod refusals;

use std::os::fd::OwnedFd;
use std::sync::Mutex;

use super::super::fake::{
    Asked, FakeDevice, Random, canary, eventfd, is_dead, memfd, message, pair, words,
};
use super::*;
use crate::virtio::F_VERSION_1;

const RAM: u64 = 0x10_0000;
const USER: u64 = 0x7f00_0000_0000;
const DESC: u64 = USER + 0x1000;
const AVAIL: u64 = USER + 0x2000;
const USED: u64 = USER + 0x3000;
const FEATURES: u64 = F_VERSION_1 | F_PROTOCOL_FEATURES;

/// A session, its device and the replies so far.
struct Bench {
    device: Arc<FakeDevice>,
    session: Session,
    stopped: Arc<Mutex<Vec<(u16, u16)>>>,
    out: Vec<u8>,
}

impl Bench {
    fn new(queues: u16) -> Bench {
        let device = Arc::new(FakeDevice::new(queues));
        let stopped = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&stopped);
        let notice: StopNotice =
            Arc::new(move |index, next| told.lock().unwrap().push((index, next)));
        let session = Session::new(device.offered(), notice);
        Bench {
            device,
            session,
            stopped,
            out: Vec::new(),
        }
    }

    /// Ready for queues: owner, features, protocol features, one region of memory.
    fn negotiated(queues: u16) -> Bench {
        let mut bench = Bench::new(queues);
        bench.ok(RequestCode::SetOwner, &[]);
        bench.ok(RequestCode::SetFeatures, &words(&[FEATURES]));
        bench.ok(
            RequestCode::SetProtocolFeatures,
            &words(&[PROTOCOL_FEATURES]),
        );
        bench.ok_fd(RequestCode::AddMemReg, &ram(0), memfd(RAM));
        bench
    }

    fn try_send(&mut self, message: Message) -> Result<Option<Error>> {
        self.session.handle(message, &mut self.out)
    }

    /// Sends without asking for an acknowledgement and expects neither refusal nor close.
    fn ok(&mut self, request: RequestCode, payload: &[u8]) {
        let refused = self.try_send(message(request, false, payload, Vec::new()));
        assert!(refused.unwrap().is_none());
    }

    fn ok_fd(&mut self, request: RequestCode, payload: &[u8], fd: OwnedFd) {
        let refused = self.try_send(message(request, false, payload, vec![fd]));
        assert!(refused.unwrap().is_none());
    }

    /// Asks for an acknowledgement and returns it.
    fn acked(&mut self, request: RequestCode, payload: &[u8], fds: Vec<OwnedFd>) -> u64 {
        self.try_send(message(request, true, payload, fds)).unwrap();
        self.u64_reply(request)
    }

    /// The one reply that is due, without its header.
    fn reply(&mut self, request: RequestCode) -> Vec<u8> {
        let out = std::mem::take(&mut self.out);
        assert!(out.len() >= 12, "no reply to {request:?}");
        assert_eq!(out[..4], (request as u32).to_le_bytes());
        assert_eq!(out[4..8], 5u32.to_le_bytes());
        let size = u32::from_le_bytes(out[8..12].try_into().unwrap());
        assert_eq!(out.len(), 12 + size as usize, "one reply to {request:?}");
        out[12..].to_vec()
    }

    fn u64_reply(&mut self, request: RequestCode) -> u64 {
        u64::from_le_bytes(self.reply(request).try_into().unwrap())
    }

    fn get(&mut self, request: RequestCode) -> u64 {
        self.ok(request, &[]);
        self.u64_reply(request)
    }

    /// Lets the device finish its stops and tells the session.
    fn finish_stops(&mut self, next_avail: u16) {
        self.device.finish_stops(next_avail);
        let stopped = std::mem::take(&mut *self.stopped.lock().unwrap());
        for (index, next) in stopped {
            let refused = self.session.queue_stopped(index, next, &mut self.out);
            assert!(refused.unwrap().is_none());
        }
    }

    /// Size, base, addresses and kick of a queue, in QEMU's order.
    fn describe(&mut self, index: u32, base: u32) {
        self.ok(RequestCode::SetVringNum, &pair(index, 128));
        self.ok(RequestCode::SetVringBase, &pair(index, base));
        self.ok(RequestCode::SetVringAddr, &addr(index, DESC, USED, AVAIL));
        self.ok_fd(
            RequestCode::SetVringKick,
            &words(&[u64::from(index)]),
            eventfd(),
        );
    }

    fn running(queues: u16) -> Bench {
        let mut bench = Bench::negotiated(queues);
        for index in 0..u32::from(queues) {
            bench.describe(index, 0);
            bench.ok(RequestCode::SetVringEnable, &pair(index, 1));
        }
        assert_eq!(bench.device.calls().len(), usize::from(queues));
        bench
    }
}

fn ram(slot: u64) -> Vec<u8> {
    words(&[0, slot * RAM, RAM, USER + slot * RAM, 0])
}

fn addr(index: u32, desc: u64, used: u64, avail: u64) -> Vec<u8> {
    let mut bytes = pair(index, 0);
    bytes.extend(words(&[desc, used, avail, 0]));
    bytes
}

fn started(index: u16, base: u16, features: u64, regions: usize) -> Asked {
    Asked::Start {
        index,
        size: 128,
        addresses: [0x1000, 0x2000, 0x3000],
        base,
        features,
        regions,
    }
}

#[test]
fn gets_are_answered_once_also_with_need_reply() {
    let mut bench = Bench::negotiated(4);
    for (request, expected) in [
        (RequestCode::GetFeatures, bench.device.features | 1 << 30),
        (RequestCode::GetProtocolFeatures, 0x8229),
        (RequestCode::GetQueueNum, 4),
        (RequestCode::GetMaxMemSlots, 509),
    ] {
        assert_eq!(bench.get(request), expected, "{request:?}");
        assert_eq!(bench.acked(request, &[], Vec::new()), expected);
    }
}

#[test]
fn without_protocol_features_a_queue_starts_with_its_kick() {
    let mut bench = Bench::new(1);
    bench.ok(RequestCode::SetFeatures, &words(&[F_VERSION_1]));
    bench.ok_fd(RequestCode::AddMemReg, &ram(0), memfd(RAM));
    bench.describe(0, 2);
    assert_eq!(bench.device.calls(), [started(0, 2, F_VERSION_1, 1)]);
}

/// Whatever comes last, a complete description starts the queue once.
#[test]
fn a_queue_starts_when_the_last_missing_piece_arrives() {
    for last in 0..6 {
        let mut bench = Bench::new(1);
        for step in (0..6).filter(|&step| step != last).chain([last]) {
            assert_eq!(bench.device.calls(), [], "{last} missing");
            match step {
                0 => bench.ok(RequestCode::SetFeatures, &words(&[FEATURES])),
                1 => bench.ok_fd(RequestCode::AddMemReg, &ram(0), memfd(RAM)),
                2 => bench.ok(RequestCode::SetVringNum, &pair(0, 128)),
                3 => bench.ok(RequestCode::SetVringAddr, &addr(0, DESC, USED, AVAIL)),
                4 => bench.ok_fd(RequestCode::SetVringKick, &words(&[0]), eventfd()),
                _ => bench.ok(RequestCode::SetVringEnable, &pair(0, 1)),
            }
        }
        assert_eq!(bench.device.calls(), [started(0, 0, F_VERSION_1, 1)]);
    }
}

#[test]
fn kick_and_call_of_a_running_queue_are_replaced() {
    let mut bench = Bench::running(1);
    bench.ok_fd(RequestCode::SetVringKick, &words(&[0]), eventfd());
    bench.ok_fd(RequestCode::SetVringCall, &words(&[0]), eventfd());
    bench.ok(RequestCode::SetVringCall, &words(&[1 << 8]));
    assert_eq!(
        bench.device.calls(),
        [
            Asked::ReplaceKick(0),
            Asked::ReplaceCall(0, true),
            Asked::ReplaceCall(0, false)
        ]
    );
}

/// As QEMU's own back ends do; its test of vhost-user-blk waits for that.
#[test]
fn a_call_fd_is_signalled_when_it_is_set_before_the_queue_runs() {
    let mut bench = Bench::negotiated(1);
    let call = eventfd();
    rustix::io::ioctl_fionbio(&call, true).unwrap();
    let seen = call.try_clone().unwrap();
    bench.ok_fd(RequestCode::SetVringCall, &words(&[0]), call);
    let mut count = [0; 8];
    assert_eq!(rustix::io::read(&seen, &mut count), Ok(8));
    assert_eq!(u64::from_le_bytes(count), 1);
}

#[test]
fn reset_owner_stops_everything() {
    let mut bench = Bench::running(2);
    bench.ok(RequestCode::ResetOwner, &[]);
    assert!(bench.session.is_waiting());
    bench.finish_stops(1);
    assert_eq!(bench.device.calls(), [Asked::Stop(0), Asked::Stop(1)]);
    assert!(!bench.session.is_waiting());
}

#[test]
fn a_queue_that_cannot_start_waits_for_another_kick_fd() {
    let mut bench = Bench::negotiated(1);
    bench.device.refuse_start(true);
    bench.describe(0, 0);
    assert_eq!(
        bench.acked(RequestCode::SetVringEnable, &pair(0, 1), Vec::new()),
        1
    );
    bench.device.refuse_start(false);
    bench.ok(RequestCode::SetVringEnable, &pair(0, 1));
    assert_eq!(bench.device.calls(), []);
    bench.ok_fd(RequestCode::SetVringKick, &words(&[0]), eventfd());
    assert_eq!(bench.device.calls(), [started(0, 0, F_VERSION_1, 1)]);
}

#[test]
fn removing_the_memory_of_the_rings_leaves_the_queue_stopped() {
    let mut bench = Bench::running(1);
    bench.ok_fd(RequestCode::AddMemReg, &ram(1), memfd(RAM));
    bench.finish_stops(1);
    bench
        .try_send(message(RequestCode::RemMemReg, true, &ram(0), Vec::new()))
        .unwrap();
    bench.device.finish_stops(2);
    let stopped = std::mem::take(&mut *bench.stopped.lock().unwrap());
    let refused = bench
        .session
        .queue_stopped(stopped[0].0, 2, &mut bench.out)
        .unwrap();
    assert!(refused.is_some());
    assert_eq!(bench.u64_reply(RequestCode::RemMemReg), 1);
    bench.ok(RequestCode::GetVringBase, &pair(0, 0));
    assert_eq!(bench.reply(RequestCode::GetVringBase), pair(0, 2));
}

#[test]
fn close_waits_for_every_queue_and_starts_none() {
    let mut bench = Bench::running(3);
    bench.session.close();
    assert!(!bench.session.is_closed());
    bench.finish_stops(0);
    assert!(bench.session.is_closed());
    assert_eq!(
        bench.device.calls(),
        [Asked::Stop(0), Asked::Stop(1), Asked::Stop(2)]
    );
    assert_eq!(bench.out, []);
}

#[test]
fn close_during_a_stop_waits_for_that_too_and_answers_nothing() {
    let mut bench = Bench::running(2);
    bench.ok(RequestCode::GetVringBase, &pair(1, 0));
    bench.session.close();
    assert_eq!(bench.device.calls(), [Asked::Stop(1), Asked::Stop(0)]);
    assert!(!bench.session.is_closed());
    bench.finish_stops(0);
    assert!(bench.session.is_closed());
    assert_eq!(bench.out, []);
}

#[test]
fn fds_end_with_the_session() {
    let mut bench = Bench::negotiated(1);
    let (reader, writer) = canary();
    // Not an eventfd, so it is refused; the refusal must close it too.
    let refused = bench.try_send(message(
        RequestCode::SetVringKick,
        true,
        &words(&[0]),
        vec![writer],
    ));
    assert!(refused.unwrap().is_some());
    assert!(is_dead(reader));
}
