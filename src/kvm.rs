//! Machines on KVM: threads run the vcpus, contexts do the I/O of the devices.
//!
//! A [`microvm::MicroVm`] boots a kernel. It is made of these parts:
//!
//! * `machine`: KVM's virtual machine with its memory, buses and vcpus
//! * `vcpu`: a thread for each vcpu, which runs guest code and answers trapped accesses from the devices of a `bus`
//! * `mmio`: virtio devices behind virtio-mmio registers. KVM signals the context of a device by an ioeventfd, and the context
//!   interrupts the guest by an irqfd (`irq`); no vcpu thread takes part
//! * `ram`, `boot`: the guest's memory, and a kernel in it
//! * `serial`, `power`: the console, and the registers to power off and reset
//!
//! # Threads
//! There is no big lock. A vcpu thread takes no lock that a context can hold: devices and vcpus share atomics, and a vcpu posts
//! its requests to the context.
//!
//! # Layers
//! This module knows virtio devices by [`crate::virtio::VirtioDevice`] only, as the vhost-user transport does.
#![deny(unsafe_code)] // children that need it say why

use kvm_ioctls::{Cap, Kvm};

use crate::{Error, ErrorKind, Result};

mod boot;
mod eventfd;
mod machine;
pub mod microvm;
mod power;
pub mod serial;

// For this repository's demo, tests and benchmarks, which make machines from parts. Others make a `microvm::MicroVm`.
#[doc(hidden)]
pub mod bus;
#[doc(hidden)]
pub mod irq;
#[doc(hidden)]
pub mod mmio;
#[doc(hidden)]
pub mod ram;
#[doc(hidden)]
pub mod vcpu;

#[doc(hidden)]
pub use machine::virtio::{MmioDevice, MmioLocation, MmioSlots};
#[doc(hidden)]
pub use machine::{Machine, MachineConfig, MachineControls};
#[doc(hidden)]
pub use vcpu::MachineEnd;

pub use boot::KernelImage;
pub use machine::MachineBuilder;
pub use machine::virtio::Board;

/// What machines need of KVM.
const NEEDED: [(Cap, &str); 6] = [
    (Cap::UserMemory, "user memory"),
    (Cap::Irqchip, "in-kernel interrupt controllers"),
    (Cap::Ioeventfd, "ioeventfd"),
    (Cap::Irqfd, "irqfd"),
    (Cap::ImmediateExit, "immediate exit"),
    (Cap::SetTssAddr, "a task state segment for real mode"),
];

/// Opens `/dev/kvm` and checks that it can run machines.
///
/// # Errors
/// `Os` if it cannot be opened, `Unsupported` if it is too old. The message says what to do.
pub fn open() -> Result<Kvm> {
    let kvm = Kvm::new().map_err(|error| cannot_open(error.errno()))?;
    for (cap, name) in NEEDED {
        if !kvm.check_extension(cap) {
            let message = format!("/dev/kvm lacks {name}, expected Linux 5.4 or later");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
    }
    Ok(kvm)
}

fn cannot_open(errno: i32) -> Error {
    let advice = match errno {
        libc::EACCES | libc::EPERM => "join the group that owns it (often 'kvm') or run as root",
        libc::ENOENT | libc::ENODEV | libc::ENXIO => {
            "load the module kvm_amd or kvm_intel, and enable virtualization in the firmware or the outer hypervisor"
        }
        _ => "check that KVM works on this host",
    };
    let message = format!("cannot open /dev/kvm ({advice})");
    Error::os(message, std::io::Error::from_raw_os_error(errno))
}

/// Makes an error of an error of KVM's; `what` completes "cannot".
pub(crate) fn failed(what: impl std::fmt::Display) -> impl FnOnce(kvm_ioctls::Error) -> Error {
    let message = format!("KVM: cannot {what}");
    move |error| Error::os(message, std::io::Error::from_raw_os_error(error.errno()))
}

/// Repeats a call to KVM while it is interrupted. The kernel refuses to make a virtual machine while any work is pending for the
/// thread, such as a completion of io_uring.
pub(crate) fn uninterrupted<T>(
    mut call: impl FnMut() -> std::result::Result<T, kvm_ioctls::Error>,
) -> std::result::Result<T, kvm_ioctls::Error> {
    loop {
        match call() {
            Err(error) if error.errno() == libc::EINTR => {}
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::uninterrupted;

    #[test]
    fn an_interrupted_call_is_made_again_and_another_failure_is_not() {
        let mut answers = [
            Err(libc::EINTR),
            Err(libc::EINTR),
            Ok(1),
            Err(libc::ENOMEM),
            Ok(2),
        ]
        .into_iter();
        let mut call = || {
            let answer: Result<i32, i32> = answers.next().unwrap();
            answer.map_err(kvm_ioctls::Error::new)
        };
        assert_eq!(uninterrupted(&mut call).unwrap(), 1);
        assert_eq!(uninterrupted(&mut call).unwrap_err().errno(), libc::ENOMEM);
        assert_eq!(uninterrupted(&mut call).unwrap(), 2);
    }
}
