//! A device on a machine of this process, and its way from one machine to the next when the guest resets itself.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::options::{DeviceOptions, TransportOptions};
use super::transport::Transport;
use super::{Device, Parts};
use crate::kvm::{Board, Builder, MmioDevice, microvm};
use crate::virtio::blk::Blk;
use crate::{ErrorKind, Result};

impl Parts<'_> {
    /// Puts the device on a machine that has not started yet.
    pub(super) fn plug(
        &self,
        options: &DeviceOptions,
        machine: &mut dyn Board,
    ) -> Result<Transport> {
        let TransportOptions::Machine { ioeventfd, irqfd } = options.transport else {
            let what = "is served over vhost-user, not by the machine";
            return Err(options.error(ErrorKind::InvalidArgument, what));
        };
        let wanted = MmioDevice {
            id: options.id.clone(),
            device: Arc::<Blk>::clone(self.blk),
            queue_size_max: options.queue_size,
            control: self.control.clone(),
            ioeventfd,
            irqfd,
        };
        let (mmio, place) = machine.add_virtio(wanted)?;
        Ok(Transport::Machine(mmio, place))
    }
}

impl microvm::MachineDevice for Device {
    /// A device that is gone, or served over vhost-user, has nothing to leave.
    fn unplug(&self, done: Box<dyn FnOnce() + Send>) {
        let transport = self.lock().as_ref().map(|live| Arc::clone(&live.transport));
        match transport.filter(|_| self.options.socket().is_none()) {
            Some(transport) => transport.shutdown(done),
            None => done(),
        }
    }

    fn hold(&self, done: Box<dyn FnOnce() + Send>) {
        match self.transport() {
            Some(transport) => transport.hold(done),
            None => done(),
        }
    }

    fn release(&self) {
        if let Some(transport) = self.transport() {
            transport.release();
        }
    }

    fn plug(&self, machine: &mut Builder) -> Result<()> {
        let blk = self.lock().as_ref().map(|live| Arc::clone(&live.blk));
        let (Some(blk), None) = (blk, self.options.socket()) else {
            return Ok(());
        };
        let parts = Parts {
            blk: &blk,
            control: &self.control,
        };
        let transport = Arc::new(parts.plug(&self.options, machine)?);
        let mut live = self.lock();
        let before = live
            .as_mut()
            .map(|live| std::mem::replace(&mut live.transport, transport));
        drop(live);
        // Outside of the lock: the one before frees a machine's memory.
        drop(before);
        Ok(())
    }
}
