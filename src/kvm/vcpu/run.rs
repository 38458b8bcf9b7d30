//! A vcpu's thread: it enters the guest, answers what made the guest exit, and enters it again.
//!
//! # Invariants
//! 1. A guest's access is answered completely before the thread reads a request.
//! 2. If the thread ends for any other reason than a stop, a panic in a device included, the machine ends.
#![allow(unsafe_code)] // details of exits that the bindings leave in a union

use kvm_bindings::{
    KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_run,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::{Buses, MachineEnd, RunRequest, VcpuHandle, VcpuSet, broken, kick};
use crate::kvm::failed;

/// Runs a vcpu until the machine ends or the vcpus are stopped.
pub(super) fn run(set: &VcpuSet, handle: &VcpuHandle, mut vcpu: VcpuFd, buses: &Buses) {
    let _leaving = Leaving(set, handle);
    let registration = kick::KickRegistration::new(&mut vcpu);
    loop {
        let mut request = set.request();
        if request == RunRequest::Pause {
            request = set.park(handle);
            // Tells the guest's watchdog that the pause was no hang. Fails for guests without kvmclock, which have none.
            let _ = vcpu.kvmclock_ctrl();
        }
        match request {
            RunRequest::Run => {}
            RunRequest::Pause => continue,
            RunRequest::Stop => break,
        }
        match enter(&mut vcpu, buses) {
            AfterExit::Enter => {}
            // Invariant 1 of the parent: cleared before the request is read.
            AfterExit::ReadRequest => registration.clear(),
            AfterExit::MachineEnd(end) => {
                set.end(end);
                break;
            }
        }
    }
}

/// What the thread does after an exit.
enum AfterExit {
    Enter,
    /// A signal ended the run: there may be a request.
    ReadRequest,
    MachineEnd(MachineEnd),
}

/// Enters the guest once, and answers what made it exit.
fn enter(vcpu: &mut VcpuFd, buses: &Buses) -> AfterExit {
    let run: *const kvm_run = vcpu.get_kvm_run();
    match vcpu.run() {
        Ok(VcpuExit::MmioRead(address, data)) => buses.mmio.read(address, data),
        Ok(VcpuExit::MmioWrite(address, data)) => buses.mmio.write(address, data),
        Ok(VcpuExit::IoIn(port, data)) => {
            for item in data.chunks_mut(item_size(run)) {
                buses.pio.read(u64::from(port), item);
            }
        }
        Ok(VcpuExit::IoOut(port, data)) => {
            for item in data.chunks(item_size(run)) {
                buses.pio.write(u64::from(port), item);
            }
        }
        Ok(VcpuExit::Shutdown) => return AfterExit::MachineEnd(MachineEnd::TripleFault),
        Ok(VcpuExit::SystemEvent(kind, _)) => return AfterExit::MachineEnd(system_event(kind)),
        Ok(VcpuExit::Intr) => return AfterExit::ReadRequest,
        Ok(VcpuExit::FailEntry(reason, cpu)) => {
            let message = format!(
                "the processor refuses to enter the guest: reason {reason:#x} on cpu {cpu}"
            );
            return AfterExit::MachineEnd(broken(message));
        }
        Ok(VcpuExit::InternalError) => return AfterExit::MachineEnd(broken(internal_error(run))),
        Ok(other) => {
            return AfterExit::MachineEnd(broken(format!("unexpected exit of a vcpu: {other:?}")));
        }
        Err(error) => {
            return match error.errno() {
                libc::EINTR | libc::EAGAIN => AfterExit::ReadRequest,
                _ => AfterExit::MachineEnd(MachineEnd::Failed(failed("run a vcpu")(error))),
            };
        }
    }
    AfterExit::Enter
}

/// The width of one port access. KVM reports several at once for a string instruction.
fn item_size(run: *const kvm_run) -> usize {
    // SAFETY: the page is mapped while the vcpu lives, and the kernel writes it inside of KVM_RUN only.
    let details = unsafe { &(*run).__bindgen_anon_1 };
    // SAFETY: after an I/O exit this is what the union holds.
    let size = unsafe { details.io.size };
    usize::from(size).max(1)
}

fn internal_error(run: *const kvm_run) -> String {
    // SAFETY: the page is mapped while the vcpu lives, and the kernel writes it inside of KVM_RUN only.
    let details = unsafe { &(*run).__bindgen_anon_1 };
    // SAFETY: after an internal error this is what the union holds.
    let suberror = unsafe { details.internal.suberror };
    match suberror {
        1 => "KVM cannot emulate an instruction of the guest".to_owned(),
        _ => format!("KVM has an internal error, number {suberror}"),
    }
}

fn system_event(kind: u32) -> MachineEnd {
    match kind {
        KVM_SYSTEM_EVENT_SHUTDOWN => MachineEnd::PowerOff,
        KVM_SYSTEM_EVENT_RESET => MachineEnd::Reset,
        KVM_SYSTEM_EVENT_CRASH => broken("the guest reports that it crashed".to_owned()),
        _ => broken(format!("unknown system event {kind}")),
    }
}

/// Marks the vcpu as gone when the thread ends, and ends the machine if the thread panics (invariant 2).
struct Leaving<'a>(&'a VcpuSet, &'a VcpuHandle);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(broken("a device panicked".to_owned()));
        }
        self.0.leave(self.1);
    }
}
