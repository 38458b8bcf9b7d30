//! A device that serves nothing and remembers everything, behind registers, and a driver's usual steps.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Weak;
use std::sync::atomic::{AtomicU32, Ordering};

use gsource::Wait;
use vmm_sys_util::eventfd::EventFd;

use super::super::*;
use super::{ACKNOWLEDGE, DRIVER, F_RING_RESET, F_VERSION_1, FLUSH};
use super::{AGREED, READY, SIZE_MAX};
use crate::kvm::eventfd::{self, owned};
use crate::virtio::DeviceFault;
use crate::virtio::notify::KickFd;
use crate::virtio::{QueueSetup, Rested, Stopped};
use crate::{Error, ErrorKind, Result};

#[derive(Default)]
pub(super) struct Log {
    pub(super) started: Vec<(u16, QueueSetup)>,
    pub(super) stopping: Vec<(u16, Stopped)>,
    /// Started and not asked to stop.
    running: BTreeSet<u16>,
    /// Starts that wait for a stop.
    waiting: Vec<(u16, QueueSetup)>,
    pub(super) config_listener: Option<Weak<dyn Signal>>,
    pub(super) holding: Vec<Rested>,
    pub(super) holds: u32,
    pub(super) config: Vec<(usize, Vec<u8>)>,
    pub(super) refuse: bool,
    pub(super) faults: Vec<DeviceFault>,
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

    fn features(&self, _: DeviceLimits) -> u64 {
        F_VERSION_1 | FLUSH
    }

    fn queue_count(&self) -> u16 {
        2
    }

    fn queue_size_max(&self) -> u16 {
        1024
    }

    fn read_config(&self, _: DeviceLimits, offset: usize, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = at.to_le_bytes()[0];
        }
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        self.0.lock().unwrap().config.push((offset, data.to_vec()));
    }

    fn report(&self, fault: DeviceFault) {
        self.0.lock().unwrap().faults.push(fault);
    }

    fn start_queue(&self, index: u16, setup: QueueSetup) -> Result<()> {
        self.2.fetch_add(1, Ordering::SeqCst);
        drop(self.1.lock().unwrap());
        if self.0.lock().unwrap().refuse {
            return Err(Error::new(ErrorKind::InvalidArgument, "no such ring"));
        }
        let mut log = self.0.lock().unwrap();
        log.running.insert(index);
        match log.stopping.iter().any(|(stopping, _)| *stopping == index) {
            true => log.waiting.push((index, setup)),
            false => log.started.push((index, setup)),
        }
        drop(log);
        Ok(())
    }

    fn stop_queue(&self, index: u16, done: Stopped) {
        let mut log = self.0.lock().unwrap();
        let was_running = log.running.remove(&index);
        log.waiting.retain(|(waiting, _)| *waiting != index);
        if was_running || log.stopping.iter().any(|(stopping, _)| *stopping == index) {
            return log.stopping.push((index, done));
        }
        drop(log);
        done(0);
    }

    fn is_started(&self, index: u16) -> bool {
        self.0.lock().unwrap().running.contains(&index)
    }

    fn watch_config(&self, listener: Weak<dyn Signal>) {
        self.0.lock().unwrap().config_listener = Some(listener);
    }

    fn hold(&self, rested: Rested) {
        let mut log = self.0.lock().unwrap();
        log.holds += 1;
        log.holding.push(rested);
    }

    fn release(&self) {
        self.0.lock().unwrap().holds -= 1;
    }

    fn set_call(&self, _: u16, _: Option<Arc<dyn Signal>>) -> Result<()> {
        Ok(())
    }

    fn set_kick(&self, _: u16, _: Option<KickFd>) -> Result<()> {
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

/// A driver's hands on the registers of a device.
pub(super) struct Panel {
    pub(super) mmio: Mmio,
    pub(super) line: Arc<Line>,
    pub(super) control: AioContext,
    pub(super) doorbells: Vec<EventFd>,
}

impl Panel {
    /// The registers of a device with two queues.
    pub(super) fn new(
        device: Arc<dyn VirtioDevice>,
        memory: GuestMemory,
        control: &AioContext,
    ) -> Panel {
        let line = Arc::new(Line::default());
        let doorbells: Vec<EventFd> = (0..2).map(|_| eventfd::new("a test").unwrap()).collect();
        let same = |doorbell: &EventFd| KickFd::new(owned(doorbell.try_clone().unwrap())).unwrap();
        let mmio = Mmio::new(Parts {
            device,
            queue_size_max: SIZE_MAX,
            memory,
            control: control.clone(),
            line: Arc::<Line>::clone(&line),
            kicks: doorbells.iter().map(same).collect(),
        });
        Panel {
            mmio,
            line,
            control: control.clone(),
            doorbells,
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

    /// Describes a queue by the addresses of its descriptors, available and used ring, and makes it ready.
    pub(super) fn describe_at(&self, queue: u32, size: u32, addresses: [u64; 3]) {
        self.write(0x30, queue);
        self.write(0x38, size);
        for (register, address) in [0x80, 0x90, 0xa0].into_iter().zip(addresses) {
            self.write(register, u32::try_from(address & 0xffff_ffff).unwrap());
            self.write(register + 4, u32::try_from(address >> 32).unwrap());
        }
        self.write(0x44, 1);
    }

    pub(super) fn interrupts(&self) -> u32 {
        self.line.0.load(Ordering::SeqCst)
    }
}

/// The registers of the device that remembers everything.
pub(super) struct Rig {
    panel: Panel,
    pub(super) fake: Arc<Fake>,
}

impl Deref for Rig {
    type Target = Panel;

    fn deref(&self) -> &Panel {
        &self.panel
    }
}

impl Rig {
    pub(super) fn new() -> Rig {
        let fake = Arc::new(Fake::default());
        let control = AioContext::new().unwrap();
        let device = Arc::<Fake>::clone(&fake);
        Rig {
            panel: Panel::new(device, GuestMemory::new(), &control),
            fake,
        }
    }

    pub(super) fn describe(&self, queue: u32, size: u32) {
        let high = u64::from(queue) << 32;
        self.describe_at(queue, size, [0x1000, 0x2000, 0x3000].map(|low| high | low));
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
        let mut log = self.fake.0.lock().unwrap();
        let waiting = std::mem::take(&mut log.waiting);
        log.started.extend(waiting);
        drop(log);
        self.iterate();
    }
}
