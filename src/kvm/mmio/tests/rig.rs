//! A device that serves nothing and remembers everything, behind registers, and a driver's usual steps.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering};

use gsource::Wait;

use super::super::*;
use super::{ACKNOWLEDGE, DRIVER, F_RING_RESET, F_VERSION_1, FLUSH};
use super::{AGREED, READY, SIZE_MAX};
use crate::kvm::eventfd;
use crate::virtio::{QueueSetup, Stopped};
use crate::{Error, ErrorKind, Result};

#[derive(Default)]
pub(super) struct Log {
    pub(super) started: Vec<(u16, QueueSetup)>,
    pub(super) stopping: Vec<(u16, Stopped)>,
    pub(super) config: Vec<(usize, Vec<u8>)>,
    pub(super) refuse: bool,
}

/// A device whose stops wait for [`Rig::finish_stops`].
#[derive(Default)]
pub(super) struct Fake(
    pub(super) Mutex<Log>,
    /// Held by a test that wants a start to get stuck, and how many have come that far.
    pub(super) Mutex<()>,
    pub(super) AtomicU32,
);

impl VirtioDevice for Fake {
    fn device_type(&self) -> u32 {
        2
    }

    fn features(&self) -> u64 {
        F_VERSION_1 | FLUSH
    }

    fn queue_count(&self) -> u16 {
        2
    }

    fn queue_size_max(&self) -> u16 {
        1024
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = at.to_le_bytes()[0];
        }
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        self.0.lock().unwrap().config.push((offset, data.to_vec()));
    }

    fn start_queue(&self, index: u16, setup: QueueSetup) -> Result<()> {
        self.2.fetch_add(1, Ordering::SeqCst);
        drop(self.1.lock().unwrap());
        if self.0.lock().unwrap().refuse {
            return Err(Error::new(ErrorKind::InvalidArgument, "no such ring"));
        }
        self.0.lock().unwrap().started.push((index, setup));
        Ok(())
    }

    fn stop_queue(&self, index: u16, done: Stopped) {
        self.0.lock().unwrap().stopping.push((index, done));
    }

    fn set_call(&self, _: u16, _: Option<Arc<dyn Signal>>) -> Result<()> {
        Ok(())
    }

    fn set_kick(&self, _: u16, _: Option<std::os::fd::OwnedFd>) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug, Default)]
pub(super) struct Line(AtomicU32);

impl Signal for Line {
    fn signal(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

pub(super) struct Rig {
    pub(super) mmio: Mmio,
    pub(super) fake: Arc<Fake>,
    pub(super) line: Arc<Line>,
    pub(super) control: AioContext,
}

impl Rig {
    pub(super) fn new() -> Rig {
        let fake = Arc::new(Fake::default());
        let line = Arc::new(Line::default());
        let control = AioContext::new().unwrap();
        let mmio = Mmio::new(Parts {
            device: Arc::<Fake>::clone(&fake),
            queue_size_max: SIZE_MAX,
            memory: GuestMemory::new(),
            control: control.clone(),
            line: Arc::<Line>::clone(&line),
            kicks: (0..2).map(|_| eventfd::new("a test").unwrap()).collect(),
        });
        Rig {
            mmio,
            fake,
            line,
            control,
        }
    }

    pub(super) fn read(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.mmio.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub(super) fn write(&self, offset: u64, value: u32) {
        self.mmio.write(offset, &value.to_le_bytes());
    }

    pub(super) fn status(&self) -> u32 {
        self.read(0x70)
    }

    /// Serves what was posted.
    pub(super) fn iterate(&self) {
        while self.control.poll(Wait::NoBlock).unwrap() {}
    }

    /// Up to FEATURES_OK with these features.
    pub(super) fn agree(&self, features: u64) {
        self.write(0x70, ACKNOWLEDGE);
        self.write(0x70, ACKNOWLEDGE | DRIVER);
        for (half, shift) in [(0, 0), (1, 32)] {
            self.write(0x24, half);
            self.write(
                0x20,
                u32::try_from(features >> shift & 0xffff_ffff).unwrap(),
            );
        }
        self.write(0x70, AGREED);
    }

    pub(super) fn describe(&self, queue: u32, size: u32) {
        self.write(0x30, queue);
        self.write(0x38, size);
        for (register, address) in [(0x80, 0x1000), (0x90, 0x2000), (0xa0, 0x3000)] {
            self.write(register, address);
            self.write(register + 4, queue);
        }
        self.write(0x44, 1);
    }

    /// A driver's whole start, with one queue.
    pub(super) fn drive(&self) {
        self.agree(F_VERSION_1 | F_RING_RESET);
        self.describe(0, 64);
        self.write(0x70, READY);
        self.iterate();
    }

    pub(super) fn started(&self) -> Vec<u16> {
        let log = self.fake.0.lock().unwrap();
        log.started.iter().map(|(index, _)| *index).collect()
    }

    /// The setup of the latest start.
    pub(super) fn last(&self) -> QueueSetup {
        self.fake.0.lock().unwrap().started.pop().unwrap().1
    }

    pub(super) fn stopping(&self) -> Vec<u16> {
        let log = self.fake.0.lock().unwrap();
        log.stopping.iter().map(|(index, _)| *index).collect()
    }

    pub(super) fn finish_stops(&self) {
        self.iterate();
        let stopping = std::mem::take(&mut self.fake.0.lock().unwrap().stopping);
        for (_, done) in stopping {
            done(7);
        }
        self.iterate();
    }

    pub(super) fn interrupts(&self) -> u32 {
        self.line.0.load(Ordering::SeqCst)
    }
}
