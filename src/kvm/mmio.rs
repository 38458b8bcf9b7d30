//! The virtio-mmio transport: a virtio device as registers in guest memory.
//!
//! Used by a machine's builder, which puts one on the bus. Follows virtio 1.2 section 4.2, version 2 (no
//! legacy interface), with the reset of single queues (feature RING_RESET).
//!
//! * `registers`: what the guest sees, and what a write means
//! * `interrupt_status`: what a running device and its guest share: the interrupt status and "needs reset"
//! * `queue_control`: starts, holds and stops the device's queues, on the device's context
//!
//! # Threads
//! Registers are read and written on vcpu threads, under a lock that no context ever takes. A context notifies the guest
//! through the atomics of `interrupt_status`. What the guest asks of the device is posted to the device's context, in order,
//! and no vcpu waits for it: the guest reads from the register that it wrote when a stop is over.
//!
//! # Doorbells
//! A queue's notification is an eventfd that its context watches. With an ioeventfd, KVM signals it without leaving to a
//! vcpu thread; otherwise the write traps and the vcpu thread signals it.
//!
//! # Invariants
//! 1. Nothing that a guest writes is an error of ours: it is ignored, or the device asks to be reset.
//! 2. A status of 0 is read only when no queue runs that was started before the reset, so its memory is the guest's again.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gsource::AioContext;

use super::bus::BusDevice;
use crate::virtio::memory::GuestMemory;
use crate::virtio::notify::{KickFd, Signal};
use crate::virtio::{DeviceLimits, VirtioDevice};

mod interrupt_status;
mod queue_control;
mod registers;
#[cfg(test)]
mod tests;

use queue_control::QueueControl;
use registers::Registers;

/// How many bytes of address space a device takes: the registers and room for its configuration space.
pub const LENGTH: u64 = 0x200;

/// Where the doorbell is, from the device's start. The value written is the queue's number.
pub(crate) const QUEUE_NOTIFY: u64 = registers::QUEUE_NOTIFY;

/// What a transport is made of.
pub(super) struct Parts {
    pub(super) device: Arc<dyn VirtioDevice>,
    pub(super) queue_size_max: u16,
    pub(super) memory: GuestMemory,
    /// Where queues are started and stopped; driven by the device's context.
    pub(super) control: AioContext,
    /// The interrupt.
    pub(super) line: Arc<dyn Signal>,
    /// One doorbell for each queue.
    pub(super) kicks: Vec<KickFd>,
}

/// A virtio device behind registers.
pub struct Mmio {
    device: Arc<dyn VirtioDevice>,
    queues: Arc<QueueControl>,
    limits: DeviceLimits,
    kicks: Arc<[KickFd]>,
    /// Taken by vcpu threads, and by others only while no vcpu runs.
    registers: Mutex<Registers>,
}

impl Mmio {
    pub(super) fn new(parts: Parts) -> Mmio {
        let kicks: Arc<[KickFd]> = parts.kicks.into();
        let queues = QueueControl::new(&parts.device, &parts.control, parts.memory, &kicks);
        let limits = DeviceLimits {
            queues: parts.device.queue_count(),
            queue_size: parts.queue_size_max.min(parts.device.queue_size_max()),
        };
        Mmio {
            registers: Mutex::new(Registers::new(&*parts.device, limits, parts.line)),
            device: parts.device,
            queues,
            limits,
            kicks,
        }
    }

    /// True while a driver has the device running.
    pub fn is_driven(&self) -> bool {
        self.queues.is_driven()
    }

    /// Stops the device's queues for good, and calls `done` on the device's context when nothing is in flight any more.
    pub fn shutdown(&self, done: impl FnOnce() + Send + 'static) {
        self.queues.close(Box::new(done));
    }

    /// Takes no more requests, and calls `done` on the device's context when those in flight have finished, after which
    /// guest memory does not change. For when no vcpu runs.
    pub fn hold(&self, done: impl FnOnce() + Send + 'static) {
        self.queues.hold(Box::new(done));
    }

    /// Goes on after [`Mmio::hold`], where it was.
    pub fn release(&self) {
        self.queues.release();
    }

    /// A trapped doorbell.
    fn kick(&self, queue: u32) {
        let queue = usize::try_from(queue).unwrap_or(usize::MAX);
        if let Some(kick) = self.kicks.get(queue) {
            kick.ring();
        }
    }

    /// The registers are consistent even if an access panicked.
    fn registers(&self) -> MutexGuard<'_, Registers> {
        self.registers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl BusDevice for Mmio {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = registers::config_offset(offset) {
            return self.device.read_config(self.limits, offset, data);
        }
        data.fill(0);
        // Registers are 32 bits wide, and accessed so.
        if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
            *data = self.registers().read(offset).to_le_bytes();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(offset) = registers::config_offset(offset) {
            return self.device.write_config(offset, data);
        }
        let Ok(data) = <[u8; 4]>::try_from(data) else {
            return;
        };
        let value = u32::from_le_bytes(data);
        match offset {
            QUEUE_NOTIFY => self.kick(value),
            _ => self.registers().write(offset, value, &self.queues),
        }
    }
}

impl fmt::Debug for Mmio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mmio")
            .field("queues", &self.kicks.len())
            .field("driven", &self.is_driven())
            .finish_non_exhaustive()
    }
}
