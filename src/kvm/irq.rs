//! The interrupt lines of a machine.
//!
//! A device signals its line from its context. Lines are edge-triggered: one signal is one edge, and edges that the guest has
//! not taken yet become one. No event is lost by that, because a device also keeps an interrupt status: the guest reads and
//! acknowledges the status first and reads the device's rings then, so an event after that makes a new edge.
//!
//! # Threads
//! Any thread may signal a line. With an irqfd that is one `write`, which does not block.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use super::{eventfd, failed};
use crate::Result;
use crate::virtio::notify::Signal;

/// One interrupt line.
#[derive(Debug)]
pub struct IrqLine {
    gsi: u32,
    delivery: Delivery,
}

/// How an edge reaches the interrupt controllers.
#[derive(Debug)]
enum Delivery {
    /// KVM makes an edge when the eventfd is signalled.
    Irqfd(EventFd),
    /// Two calls to KVM, high and low. The lock keeps pulses of several queues from overlapping, because the guest would see
    /// one edge only. No vcpu thread takes it.
    Calls { vm: Arc<VmFd>, pulse: Mutex<()> },
}

impl IrqLine {
    /// The line `gsi`, signalled by an irqfd or by calls.
    ///
    /// # Errors
    /// `Os` if KVM does not have the line, or fds have run out.
    pub(super) fn new(vm: &Arc<VmFd>, gsi: u32, irqfd: bool) -> Result<IrqLine> {
        let delivery = if irqfd {
            let event = eventfd::new("an interrupt")?;
            vm.register_irqfd(&event, gsi)
                .map_err(failed(format_args!("connect interrupt {gsi}")))?;
            Delivery::Irqfd(event)
        } else {
            vm.set_irq_line(gsi, false)
                .map_err(failed(format_args!("reach interrupt {gsi}")))?;
            Delivery::Calls {
                vm: Arc::clone(vm),
                pulse: Mutex::default(),
            }
        };
        Ok(IrqLine { gsi, delivery })
    }

    /// The line's number.
    pub fn gsi(&self) -> u32 {
        self.gsi
    }
}

impl Signal for IrqLine {
    /// Makes one edge. A write fails only if the counter is full, and then an edge is pending; the calls do not fail on a line
    /// that exists.
    fn signal(&self) {
        match &self.delivery {
            Delivery::Irqfd(event) => {
                let _ = event.write(1);
            }
            Delivery::Calls { vm, pulse } => {
                let _alone = pulse.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = vm.set_irq_line(self.gsi, true);
                let _ = vm.set_irq_line(self.gsi, false);
            }
        }
    }
}
