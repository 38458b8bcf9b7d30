//! A vcpu's thread: into the guest, out of it, an answer, and back.
//!
//! # Invariants
//! 1. An access of the guest is answered in full before anything else is looked at.
//! 2. However the thread ends, a panic in a device included, the machine ends with it.
#![allow(unsafe_code)] // details of exits that the bindings leave in a union

use kvm_bindings::{
    KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_run,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::{Buses, Crew, End, Member, Wish, broken, kick};
use crate::kvm::failed;

/// Runs a vcpu until it ends or is to stop.
pub(super) fn run(crew: &Crew, member: &Member, mut vcpu: VcpuFd, buses: &Buses) {
    let _leaving = Leaving(crew, member);
    let registration = kick::Registration::new(&mut vcpu);
    loop {
        let mut wish = crew.wish();
        if wish == Wish::Pause {
            wish = crew.park(member);
            // The guest's watchdog shall not take the pause for a hang; guests that have none cannot be told.
            let _ = vcpu.kvmclock_ctrl();
        }
        match wish {
            Wish::Run => {}
            Wish::Pause => continue,
            Wish::Stop => break,
        }
        match enter(&mut vcpu, buses) {
            Next::Go => {}
            // Invariant 1 of the parent: withdrawn before the wish is looked at.
            Next::Look => registration.clear(),
            Next::End(end) => {
                crew.end(end);
                break;
            }
        }
    }
}

/// What an exit leads to.
enum Next {
    Go,
    /// Somebody wants something.
    Look,
    End(End),
}

/// Once into the guest, and the answer to what brought us out.
fn enter(vcpu: &mut VcpuFd, buses: &Buses) -> Next {
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
        Ok(VcpuExit::Shutdown) => return Next::End(End::TripleFault),
        Ok(VcpuExit::SystemEvent(kind, _)) => return Next::End(system_event(kind)),
        Ok(VcpuExit::Intr) => return Next::Look,
        Ok(VcpuExit::FailEntry(reason, cpu)) => {
            let message = format!(
                "the processor refuses to enter the guest: reason {reason:#x} on cpu {cpu}"
            );
            return Next::End(broken(message));
        }
        Ok(VcpuExit::InternalError) => return Next::End(broken(internal_error(run))),
        Ok(other) => return Next::End(broken(format!("unexpected exit of a vcpu: {other:?}"))),
        Err(error) => {
            return match error.errno() {
                libc::EINTR | libc::EAGAIN => Next::Look,
                _ => Next::End(End::Failed(failed("run a vcpu")(error))),
            };
        }
    }
    Next::Go
}

/// The width of the port access that KVM has reported; string instructions report many at once.
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

fn system_event(kind: u32) -> End {
    match kind {
        KVM_SYSTEM_EVENT_SHUTDOWN => End::PowerOff,
        KVM_SYSTEM_EVENT_RESET => End::Reset,
        KVM_SYSTEM_EVENT_CRASH => broken("the guest reports that it crashed".to_owned()),
        _ => broken(format!("unknown system event {kind}")),
    }
}

/// Accounts for the thread's end, and makes it the machine's (invariant 2).
struct Leaving<'a>(&'a Crew, &'a Member);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(broken("a device panicked".to_owned()));
        }
        self.0.leave(self.1);
    }
}
