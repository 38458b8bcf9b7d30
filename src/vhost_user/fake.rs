//! A device that serves nothing and remembers everything, and a front end that writes messages by hand.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::event::EventfdFlags;
use rustix::fs::MemfdFlags;

use super::protocol::{Header, Message, RequestCode};
use super::session::OfferedDevice;
use crate::virtio::fault::DeviceFault;
use crate::virtio::notify::{KickFd, Signal};
use crate::virtio::{DeviceLimits, QueueSetup, Rested, Stopped, VirtioDevice};
use crate::{Error, ErrorKind, Result};

/// Everything asked of the device, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Start {
        index: u16,
        size: u16,
        addresses: [u64; 3],
        base: u16,
        features: u64,
        regions: usize,
    },
    Stop(u16),
    ReplaceKick(u16),
    ReplaceCall(u16, bool),
    WriteConfig(usize, Vec<u8>),
}

#[derive(Default)]
struct Log {
    calls: Vec<Asked>,
    stopping: Vec<(u16, Stopped)>,
    started: BTreeSet<u16>,
    config_listener: Option<Weak<dyn Signal>>,
    refuse_start: bool,
    faults: Vec<String>,
}

/// The device. Stops wait for [`FakeDevice::finish_stops`].
pub(super) struct FakeDevice {
    pub(super) features: u64,
    pub(super) queues: u16,
    log: Mutex<Log>,
}

impl FakeDevice {
    pub(super) fn new(queues: u16) -> FakeDevice {
        FakeDevice {
            features: 0x1_7100_0246,
            queues,
            log: Mutex::default(),
        }
    }

    /// As a listener wants it.
    pub(super) fn offered(self: &Arc<Self>) -> OfferedDevice {
        OfferedDevice {
            device: Arc::clone(self) as Arc<dyn VirtioDevice>,
            queue_size_max: 1024,
        }
    }

    fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, call: Asked) {
        self.log().calls.push(call);
    }

    /// What was asked since the last time.
    pub(super) fn calls(&self) -> Vec<Asked> {
        std::mem::take(&mut self.log().calls)
    }

    /// What was reported since the last time.
    pub(super) fn faults(&self) -> Vec<String> {
        std::mem::take(&mut self.log().faults)
    }

    /// Completes every stop that is under way, each at `next_avail`; true if there was one.
    pub(super) fn finish_stops(&self, next_avail: u16) -> bool {
        let stopping = std::mem::take(&mut self.log().stopping);
        let any = !stopping.is_empty();
        for (_, done) in stopping {
            done(next_avail);
        }
        any
    }

    /// Says that the configuration has changed; false if no transport listens.
    pub(super) fn change_config(&self) -> bool {
        let listener = self.log().config_listener.as_ref().and_then(Weak::upgrade);
        listener.map(|listener| listener.signal()).is_some()
    }

    pub(super) fn refuse_start(&self, refuse: bool) {
        self.log().refuse_start = refuse;
    }
}

impl VirtioDevice for FakeDevice {
    fn features(&self, _: DeviceLimits) -> u64 {
        self.features
    }

    fn queue_count(&self) -> u16 {
        self.queues
    }

    fn device_type(&self) -> u32 {
        2
    }

    fn queue_size_max(&self) -> u16 {
        32768
    }

    fn read_config(&self, _: DeviceLimits, offset: usize, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = u8::try_from(at & 0x7f).unwrap_or(0);
        }
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        self.record(Asked::WriteConfig(offset, data.to_vec()));
    }

    fn watch_config(&self, listener: Weak<dyn Signal>) {
        self.log().config_listener = Some(listener);
    }

    fn report(&self, fault: DeviceFault) {
        self.log().faults.push(fault.reason);
    }

    fn start_queue(&self, index: u16, setup: QueueSetup) -> Result<()> {
        if self.log().refuse_start {
            return Err(Error::new(ErrorKind::InvalidArgument, "refused"));
        }
        self.log().started.insert(index);
        self.record(Asked::Start {
            index,
            size: setup.size,
            addresses: [setup.descriptors, setup.available, setup.used],
            base: setup.next_avail,
            features: setup.features,
            regions: setup.memory.region_count(),
        });
        Ok(())
    }

    fn stop_queue(&self, index: u16, done: Stopped) {
        self.record(Asked::Stop(index));
        let mut log = self.log();
        log.started.remove(&index);
        log.stopping.push((index, done));
    }

    fn is_started(&self, index: u16) -> bool {
        self.log().started.contains(&index)
    }

    fn hold(&self, rested: Rested) {
        rested();
    }

    fn release(&self) {}

    fn set_call(&self, index: u16, call: Option<Arc<dyn Signal>>) -> Result<()> {
        self.record(Asked::ReplaceCall(index, call.is_some()));
        Ok(())
    }

    fn set_kick(&self, index: u16, _kick: Option<KickFd>) -> Result<()> {
        self.record(Asked::ReplaceKick(index));
        Ok(())
    }
}

/// The bytes of a message as a front end sends it.
pub(super) fn bytes(number: u32, need_reply: bool, payload: &[u8]) -> Vec<u8> {
    let flags: u32 = if need_reply { 9 } else { 1 };
    let mut out = Vec::new();
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    out.extend_from_slice(payload);
    out
}

/// A message as the reader hands it over.
pub(super) fn message(
    request: RequestCode,
    need_reply: bool,
    payload: &[u8],
    fds: Vec<OwnedFd>,
) -> Message {
    let raw = bytes(request as u32, need_reply, payload);
    let header = Header::parse(raw[..12].try_into().unwrap()).unwrap();
    Message::new(header, payload.to_vec(), fds)
}

pub(super) fn pair(index: u32, num: u32) -> Vec<u8> {
    [index.to_le_bytes(), num.to_le_bytes()].concat()
}

pub(super) fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub(super) fn eventfd() -> OwnedFd {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

pub(super) fn memfd(size: u64) -> OwnedFd {
    let fd = rustix::fs::memfd_create("guest-ram", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, size).unwrap();
    fd
}

/// A pipe's two ends: whether the second is closed everywhere can be seen at the first.
pub(super) fn canary() -> (std::io::PipeReader, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    (reader, writer.into())
}

/// True when every copy of a canary's second end is closed. Hangs, and so fails by the deadline, when one is not.
pub(super) fn is_dead(mut reader: std::io::PipeReader) -> bool {
    std::io::Read::read(&mut reader, &mut [0]).unwrap() == 0
}

/// Small deterministic random numbers (xorshift64*).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }
}
