//! A device on the machine of this process: it pauses with the machine, and goes from one machine to the next when the guest
//! resets itself.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::Device;
use super::transport::{Transport, TransportSetup};
use crate::Result;
use crate::kvm::{MachineBuilder, microvm};

impl microvm::MachineDevice for Device {
    /// A device that is gone, or served over vhost-user, has nothing to leave.
    fn unplug(&self, done: Box<dyn FnOnce() + Send>) {
        match self.transport().filter(|_| !self.is_beside()) {
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
        self.go_on();
        if let Some(transport) = self.transport() {
            transport.release();
        }
    }

    /// One that is served over vhost-user has no part in the machine.
    fn stop_machine_by(&self, stop: Arc<dyn Fn() + Send + Sync>) {
        if !self.is_beside() {
            self.faults.stop().set_machine(stop);
        }
    }

    fn plug(&self, machine: &mut MachineBuilder) -> Result<()> {
        let model = self.parts(|parts| Arc::clone(&parts.model));
        let Some(model) = model.filter(|_| !self.is_beside()) else {
            return Ok(());
        };
        let setup = TransportSetup {
            options: &self.options,
            model: &model,
            control: &self.control,
        };
        let transport = Arc::new(Transport::plug(&setup, machine)?);
        let before = self.parts(|parts| std::mem::replace(&mut parts.transport, transport));
        // Outside of the lock: it frees the memory of the machine before.
        drop(before);
        Ok(())
    }
}

impl Device {
    /// True if the device is not on the machine but beside it, served over vhost-user.
    fn is_beside(&self) -> bool {
        self.options.socket().is_some()
    }
}
