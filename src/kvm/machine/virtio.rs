//! Virtio devices on a machine: the addresses of their registers, their doorbells and their interrupts.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use gsource::AioContext;
use kvm_ioctls::IoEventAddress;
use vmm_sys_util::eventfd::EventFd;

use super::MachineBuilder;
use crate::kvm::eventfd::{self, owned};
use crate::kvm::failed;
use crate::kvm::mmio::{LENGTH, Mmio, Parts, QUEUE_NOTIFY};
use crate::virtio::VirtioDevice;
use crate::virtio::memory::GuestMemory;
use crate::virtio::notify::{KickFd, Signal};
use crate::{Error, ErrorKind, Result};

/// The addresses and interrupts that a machine gives to virtio devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MmioSlots {
    /// The address of the first device's registers; the others follow.
    pub start: u64,
    /// From one device's start to the next; at least [`LENGTH`].
    pub stride: u64,
    /// The interrupt lines, one for each device.
    pub lines: Vec<u32>,
}

/// A virtio device to put on a machine.
pub struct MmioDevice {
    /// Its name, for messages.
    pub id: String,
    /// The device.
    pub device: Arc<dyn VirtioDevice>,
    /// A limit for the size of queues, besides the device's own.
    pub queue_size_max: u16,
    /// Runs what starts and stops its queues. Attached to the device's context.
    pub control: AioContext,
    /// Whether KVM signals a doorbell by ioeventfd. Otherwise the write traps, and the vcpu's thread signals it.
    pub ioeventfd: bool,
    /// Whether interrupts go by irqfd. Otherwise the device's context makes a call for each.
    pub irqfd: bool,
}

/// The address and the interrupt of a virtio device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MmioLocation {
    /// The device's name.
    pub id: String,
    /// The addresses of its registers.
    pub registers: Range<u64>,
    /// Its interrupt line, edge-triggered and active high.
    pub gsi: u32,
}

/// A machine that takes virtio devices, behind virtio-mmio registers.
pub trait Board {
    /// Adds a device.
    ///
    /// # Errors
    /// `LimitExceeded` if all places are taken; `Os` if KVM refuses, or fds have run out.
    fn add_virtio(&mut self, wanted: MmioDevice) -> Result<(Arc<Mmio>, MmioLocation)>;
}

impl MmioSlots {
    /// The location of the device of that number, counted from 0.
    ///
    /// # Errors
    /// `LimitExceeded` if there are fewer places.
    pub fn place(&self, number: usize, id: &str) -> Result<MmioLocation> {
        let gsi = self.lines.get(number).ok_or_else(|| {
            let most = self.lines.len();
            let message = format!("device '{id}': the machine has room for {most} virtio devices");
            Error::new(ErrorKind::LimitExceeded, message)
        })?;
        let start = self.start + self.stride * number as u64;
        Ok(MmioLocation {
            id: id.to_owned(),
            registers: start..start + LENGTH,
            gsi: *gsi,
        })
    }
}

impl MmioDevice {
    /// The device behind its registers, for a machine without KVM. The caller puts it on a bus of its own: each doorbell is a
    /// write to the registers, and each interrupt a signal on `line`.
    ///
    /// # Errors
    /// `Os` if fds have run out.
    pub fn without_kvm(self, memory: GuestMemory, line: Arc<dyn Signal>) -> Result<Mmio> {
        let queues = 0..self.device.queue_count();
        let kicks = queues.map(|_| KickFd::new(owned(eventfd::new("a doorbell")?)));
        let kicks = kicks.collect::<Result<_>>()?;
        Ok(self.behind_registers(memory, line, kicks))
    }

    fn behind_registers(
        self,
        memory: GuestMemory,
        line: Arc<dyn Signal>,
        kicks: Vec<KickFd>,
    ) -> Mmio {
        Mmio::new(Parts {
            device: self.device,
            queue_size_max: self.queue_size_max,
            memory,
            control: self.control,
            line,
            kicks,
        })
    }
}

impl Board for MachineBuilder {
    fn add_virtio(&mut self, wanted: MmioDevice) -> Result<(Arc<Mmio>, MmioLocation)> {
        let number = self.announcements.len();
        let announcement = self.config.virtio.place(number, &wanted.id)?;
        let start = announcement.registers.start;
        let line: Arc<dyn Signal> = Arc::new(self.line(announcement.gsi, wanted.irqfd)?);
        let mut kicks = Vec::new();
        for queue in 0..wanted.device.queue_count() {
            let kick = eventfd::new("a doorbell")?;
            if wanted.ioeventfd {
                self.connect(&kick, start, queue)?;
            }
            kicks.push(KickFd::new(owned(kick))?);
        }
        let (id, memory) = (wanted.id.clone(), self.ram.memory().clone());
        let mmio = Arc::new(wanted.behind_registers(memory, line, kicks));
        let device = Arc::<Mmio>::clone(&mmio);
        self.add_mmio(announcement.registers.clone(), &id, device)?;
        self.announcements.push(announcement.clone());
        Ok((mmio, announcement))
    }
}

impl MachineBuilder {
    /// The virtio devices so far.
    pub(crate) fn virtio_devices(&self) -> &[MmioLocation] {
        &self.announcements
    }

    /// Makes KVM signal the doorbell when the guest writes the queue's number.
    fn connect(&self, kick: &EventFd, start: u64, queue: u16) -> Result<()> {
        let doorbell = IoEventAddress::Mmio(start + QUEUE_NOTIFY);
        self.vm
            .register_ioevent(kick, &doorbell, u32::from(queue))
            .map_err(failed(format_args!(
                "connect the doorbell of queue {queue}"
            )))
    }
}

impl std::fmt::Debug for MmioDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MmioDevice")
            .field("id", &self.id)
            .field("ioeventfd", &self.ioeventfd)
            .field("irqfd", &self.irqfd)
            .finish_non_exhaustive()
    }
}
