//! The registers of a device (virtio 1.2, section 4.2.2), and the order in which a driver uses them (section 3.1).
//!
//! Used by [`super::Mmio`] under its lock. Starts and stops of queues are posted to the [`QueueControl`].
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::interrupt_status::{ConfigSignal, InterruptStatus, QueueRun};
use super::queue_control::{QueueControl, QueueDescription, QueueStart};
use crate::virtio::notify::Signal;
use crate::virtio::{DeviceLimits, F_RING_RESET, F_VERSION_1, VirtioDevice};

const MAGIC: u64 = 0x000;
const VERSION: u64 = 0x004;
const DEVICE_ID: u64 = 0x008;
const VENDOR_ID: u64 = 0x00c;
const DEVICE_FEATURES: u64 = 0x010;
const DEVICE_FEATURES_SEL: u64 = 0x014;
const DRIVER_FEATURES: u64 = 0x020;
const DRIVER_FEATURES_SEL: u64 = 0x024;
const QUEUE_SEL: u64 = 0x030;
const QUEUE_NUM_MAX: u64 = 0x034;
const QUEUE_NUM: u64 = 0x038;
const QUEUE_READY: u64 = 0x044;
pub(super) const QUEUE_NOTIFY: u64 = 0x050;
const INTERRUPT_STATUS: u64 = 0x060;
const INTERRUPT_ACK: u64 = 0x064;
const STATUS: u64 = 0x070;
const QUEUE_DESC: u64 = 0x080;
const QUEUE_DESC_HIGH: u64 = 0x084;
const QUEUE_DRIVER: u64 = 0x090;
const QUEUE_DRIVER_HIGH: u64 = 0x094;
const QUEUE_DEVICE: u64 = 0x0a0;
const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
const SHM_LEN: u64 = 0x0b0;
const SHM_BASE_HIGH: u64 = 0x0bc;
const QUEUE_RESET: u64 = 0x0c0;
const CONFIG_GENERATION: u64 = 0x0fc;
const CONFIG: u64 = 0x100;

/// "virt", in the order of bytes in memory.
const MAGIC_VALUE: u32 = u32::from_le_bytes(*b"virt");
const VENDOR: u32 = u32::from_le_bytes(*b"qctx");

/// Status bits; section 2.1.
pub(super) mod status {
    pub(in super::super) const ACKNOWLEDGE: u32 = 1;
    pub(in super::super) const DRIVER: u32 = 2;
    pub(in super::super) const DRIVER_OK: u32 = 4;
    pub(in super::super) const FEATURES_OK: u32 = 8;
    pub(in super::super) const NEEDS_RESET: u32 = 64;
    pub(in super::super) const FAILED: u32 = 128;
}
use status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK, NEEDS_RESET};

/// The status bits that a driver sets.
const DRIVERS: u32 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;

/// How many runs of queues may be ending at a time. A driver that starts and resets faster than the device stops has to
/// reset once more, so that its orders cannot pile up.
const ENDING_MAX: usize = 256;

/// Where in the configuration space an access goes, if it goes there.
pub(super) fn config_offset(offset: u64) -> Option<usize> {
    usize::try_from(offset.checked_sub(CONFIG)?).ok()
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Registers {
    device_type: u32,
    offered: u64,
    queue_size_max: u16,
    accepted: u64,
    device_features_sel: u32,
    driver_features_sel: u32,
    queue_sel: u32,
    status: u32,
    queues: Box<[QueueRegisters]>,
    interrupts: Arc<InterruptStatus>,
    config: Arc<ConfigSignal>,
    /// Queues started before the last reset that have not stopped yet.
    ending: Vec<Arc<QueueRun>>,
    /// The status at the last reset, which is read until that is over.
    status_before: u32,
}

/// A queue since the last reset.
#[derive(Debug, Default)]
struct QueueRegisters {
    description: QueueDescription,
    ready: bool,
    run: Option<Arc<QueueRun>>,
    /// A stop that the driver asked for, and how.
    ending: Option<(Arc<QueueRun>, QueueEnding)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QueueEnding {
    /// By writing 0 to QueueReady.
    Unready,
    /// By writing 1 to QueueReset.
    Reset,
    /// By one, and then the other before it was over.
    Both,
}

impl QueueRegisters {
    fn is_ending(&self, how: QueueEnding) -> bool {
        let ending = self.ending.as_ref();
        ending.is_some_and(|(run, this)| {
            (*this == how || *this == QueueEnding::Both) && !run.is_quiet()
        })
    }

    fn is_idle(&self) -> bool {
        !self.ready && !self.is_ending(QueueEnding::Unready) && !self.is_ending(QueueEnding::Reset)
    }
}

impl Registers {
    pub(super) fn new(
        device: &dyn VirtioDevice,
        limits: DeviceLimits,
        line: Arc<dyn Signal>,
    ) -> Registers {
        let interrupts = InterruptStatus::new(line);
        let config = ConfigSignal::new(&interrupts);
        let known: Arc<dyn Signal> = Arc::<ConfigSignal>::clone(&config);
        device.watch_config(Arc::downgrade(&known));
        Registers {
            device_type: device.device_type(),
            offered: device.features(limits) | F_RING_RESET,
            queue_size_max: limits.queue_size,
            accepted: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            queue_sel: 0,
            status: 0,
            queues: (0..limits.queues)
                .map(|_| QueueRegisters::default())
                .collect(),
            interrupts,
            config,
            ending: Vec::new(),
            status_before: 0,
        }
    }

    pub(super) fn read(&mut self, offset: u64) -> u32 {
        match offset {
            MAGIC => MAGIC_VALUE,
            VERSION => 2,
            DEVICE_ID => self.device_type,
            VENDOR_ID => VENDOR,
            DEVICE_FEATURES => half(self.offered, self.device_features_sel),
            QUEUE_NUM_MAX => self.queue().map_or(0, |_| u32::from(self.queue_size_max)),
            QUEUE_READY => self.queue().map_or(0, |queue| {
                u32::from(queue.ready || queue.is_ending(QueueEnding::Unready))
            }),
            QUEUE_RESET => self
                .queue()
                .map_or(0, |queue| u32::from(queue.is_ending(QueueEnding::Reset))),
            INTERRUPT_STATUS => self.interrupts.bits(),
            STATUS => self.status(),
            // There is no shared memory: its length, and where it is, are all ones.
            SHM_LEN..=SHM_BASE_HIGH => u32::MAX,
            CONFIG_GENERATION => self.config.generation(),
            _ => 0,
        }
    }

    pub(super) fn write(&mut self, offset: u64, value: u32, control: &Arc<QueueControl>) {
        match offset {
            DEVICE_FEATURES_SEL => self.device_features_sel = value,
            DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            DRIVER_FEATURES => self.set_features(value),
            QUEUE_SEL => self.queue_sel = value,
            QUEUE_NUM | QUEUE_DESC..=QUEUE_DEVICE_HIGH => self.describe(offset, value),
            QUEUE_READY => match value {
                0 => self.end_queue(QueueEnding::Unready, control),
                _ => self.ready_queue(control),
            },
            QUEUE_RESET if value == 1 && self.accepted & F_RING_RESET != 0 => {
                self.end_queue(QueueEnding::Reset, control);
            }
            INTERRUPT_ACK => self.interrupts.acknowledge(value),
            STATUS => match value {
                0 => self.reset(control),
                _ => self.set_status(value, control),
            },
            _ => {}
        }
    }

    /// The status as the driver reads it. After a reset it is the old one, until the reset is over or the driver goes on.
    fn status(&mut self) -> u32 {
        self.ending.retain(|run| !run.is_quiet());
        match self.status {
            0 if !self.ending.is_empty() => self.status_before,
            status if self.interrupts.needs_reset() => status | NEEDS_RESET,
            status => status,
        }
    }

    fn set_features(&mut self, value: u32) {
        if self.status & (DRIVER | FEATURES_OK) != DRIVER {
            return;
        }
        let value = u64::from(value);
        match self.driver_features_sel {
            0 => self.accepted = self.accepted & !0xffff_ffff | value,
            1 => self.accepted = self.accepted & 0xffff_ffff | value << 32,
            _ => {}
        }
    }

    /// Bits are only ever added; FEATURES_OK stays away if we cannot work with what the driver accepted, and DRIVER_OK if
    /// features are not agreed on.
    fn set_status(&mut self, value: u32, control: &Arc<QueueControl>) {
        let before = self.status;
        let mut after = before | value & DRIVERS;
        let newly = |status: u32, bit: u32| status & !before & bit != 0;
        if newly(after, FEATURES_OK) && !self.can_agree(after) {
            after &= !FEATURES_OK;
        }
        if newly(after, DRIVER_OK) && after & FEATURES_OK == 0 {
            after &= !DRIVER_OK;
        }
        self.status = after;
        if newly(after, FAILED) {
            // The driver gave up: its memory must not be touched any more.
            self.stop_all(control);
        } else if newly(after, DRIVER_OK) {
            self.interrupts.begin_operation();
            for index in 0..self.queues.len() {
                self.start_queue(index, control);
            }
        }
    }

    fn can_agree(&self, status: u32) -> bool {
        status & DRIVER != 0
            && self.accepted & !self.offered == 0
            && self.accepted & F_VERSION_1 != 0
    }

    /// Section 4.2.2: the device forgets everything; queues that run are stopped, and the status is 0 when they have.
    fn reset(&mut self, control: &Arc<QueueControl>) {
        if self.status != 0 {
            self.status_before = self.status;
        }
        self.stop_all(control);
        self.status = 0;
        self.accepted = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.queue_sel = 0;
        self.interrupts = InterruptStatus::new(Arc::clone(self.interrupts.line()));
        self.config.replace_status(&self.interrupts);
    }

    fn stop_all(&mut self, control: &Arc<QueueControl>) {
        for (index, queue) in (0..).zip(&mut self.queues) {
            let queue = std::mem::take(queue);
            if let Some(run) = queue.run {
                control.stop(index, Arc::clone(&run));
                self.ending.push(run);
            }
            self.ending.extend(queue.ending.map(|(run, _)| run));
        }
    }

    fn queue(&self) -> Option<&QueueRegisters> {
        self.queues.get(self.selected())
    }

    fn selected(&self) -> usize {
        usize::try_from(self.queue_sel).unwrap_or(usize::MAX)
    }

    /// Whether the driver may describe queues now.
    fn takes_queues(&self) -> bool {
        self.status & (FEATURES_OK | FAILED) == FEATURES_OK
    }

    fn describe(&mut self, offset: u64, value: u32) {
        let (selected, most) = (self.selected(), self.queue_size_max);
        if !self.takes_queues() {
            return;
        }
        let Some(queue) = self
            .queues
            .get_mut(selected)
            .filter(|queue| queue.is_idle())
        else {
            return;
        };
        let description = &mut queue.description;
        match offset {
            QUEUE_NUM => {
                let size = u16::try_from(value).unwrap_or(0);
                let fits = size.is_power_of_two() && size <= most;
                description.size = if fits { size } else { 0 };
            }
            QUEUE_DESC => set_low(&mut description.descriptors, value),
            QUEUE_DESC_HIGH => set_high(&mut description.descriptors, value),
            QUEUE_DRIVER => set_low(&mut description.available, value),
            QUEUE_DRIVER_HIGH => set_high(&mut description.available, value),
            QUEUE_DEVICE => set_low(&mut description.used, value),
            QUEUE_DEVICE_HIGH => set_high(&mut description.used, value),
            _ => {}
        }
    }

    /// A queue without a proper size is never ready. Whether its rings lie in memory is checked when it starts.
    fn ready_queue(&mut self, control: &Arc<QueueControl>) {
        let selected = self.selected();
        if !self.takes_queues() {
            return;
        }
        let Some(queue) = self.queues.get_mut(selected) else {
            return;
        };
        if !queue.is_idle() || queue.description.size == 0 {
            return;
        }
        queue.ready = true;
        queue.ending = None;
        if self.status & DRIVER_OK != 0 {
            self.start_queue(selected, control);
        }
    }

    fn start_queue(&mut self, index: usize, control: &Arc<QueueControl>) {
        let Some(queue) = self.queues.get_mut(index) else {
            return;
        };
        let Ok(index) = u16::try_from(index) else {
            return;
        };
        if !queue.ready || queue.run.is_some() {
            return;
        }
        self.ending.retain(|run| !run.is_quiet());
        if self.ending.len() >= ENDING_MAX {
            control.report(
                index,
                "the driver resets it faster than it stops".to_owned(),
            );
            return self.interrupts.ask_for_reset();
        }
        let run = Arc::new(QueueRun::default());
        queue.run = Some(Arc::clone(&run));
        control.start(QueueStart {
            index,
            description: queue.description,
            features: self.accepted,
            interrupts: Arc::clone(&self.interrupts),
            run,
        });
    }

    fn end_queue(&mut self, how: QueueEnding, control: &Arc<QueueControl>) {
        let selected = self.selected();
        let Some(queue) = self.queues.get_mut(selected) else {
            return;
        };
        queue.ready = false;
        if how == QueueEnding::Reset {
            queue.description = QueueDescription::default();
        }
        if let (Some(run), Ok(index)) = (queue.run.take(), u16::try_from(selected)) {
            control.stop(index, Arc::clone(&run));
            queue.ending = Some((run, how));
        } else if let Some((_, before)) = &mut queue.ending
            && *before != how
        {
            // It stops already; each of the two registers shows when that is over.
            *before = QueueEnding::Both;
        }
    }
}

/// The half of a feature word that is selected.
fn half(features: u64, selected: u32) -> u32 {
    let shifted = match selected {
        0 => features,
        1 => features >> 32,
        _ => 0,
    };
    u32::try_from(shifted & 0xffff_ffff).unwrap_or(0)
}

fn set_low(address: &mut u64, value: u32) {
    *address = *address & !0xffff_ffff | u64::from(value);
}

fn set_high(address: &mut u64, value: u32) {
    *address = *address & 0xffff_ffff | u64::from(value) << 32;
}
