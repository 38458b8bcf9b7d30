//! The inputs of the machine's interrupt controllers.
//!
//! Used by devices, which raise their line from the context that has finished something. Lines are edge-triggered: one
//! signal is one edge, and edges that the guest has not taken yet merge into one. That suits devices that keep
//! an interrupt status of their own: the guest reads the status, acknowledges it, and then looks at the device's rings,
//! so whatever happens after the look makes another edge.
//!
//! # Threads
//! Any thread may raise a line. By irqfd that is one `write` that never blocks, and KVM does the rest.
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

/// How an edge gets to the interrupt controllers.
#[derive(Debug)]
enum Delivery {
    /// The eventfd is KVM's.
    Irqfd(EventFd),
    /// Two calls, up and down. Pulses of several queues must not overlap: of two edges in one pulse the guest may see
    /// the first only. No vcpu thread takes this lock.
    Calls { vm: Arc<VmFd>, pulse: Mutex<()> },
}

impl IrqLine {
    /// IrqLine `gsi`, raised by an irqfd, or by calls from the raising thread.
    ///
    /// # Errors
    /// `Os` if KVM does not have the line or there are no fds left.
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
    /// One edge. An eventfd whose counter is full has an edge pending anyway, and the calls cannot fail on a line that
    /// exists.
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
