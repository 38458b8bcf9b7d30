//! The registers of a vcpu that starts in real mode.
#![forbid(unsafe_code)]

use kvm_bindings::{KVM_MP_STATE_RUNNABLE, kvm_mp_state, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;

use crate::Result;
use crate::kvm::failed;

/// Where a vcpu starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealMode {
    /// The value of all segment registers.
    pub segment: u16,
    /// The first instruction, in the segment.
    pub ip: u16,
    /// The top of the stack, in the segment.
    pub sp: u16,
    /// The value of AX.
    pub ax: u16,
}

impl RealMode {
    /// Makes `vcpu` start there. It can run at once, also if it is not the first vcpu.
    ///
    /// # Errors
    /// `Os` if KVM refuses.
    pub fn prepare(&self, vcpu: &VcpuFd) -> Result<()> {
        let mut special = vcpu.get_sregs().map_err(failed("read registers"))?;
        for segment in [
            &mut special.cs,
            &mut special.ds,
            &mut special.es,
            &mut special.ss,
        ] {
            self.place(segment);
        }
        vcpu.set_sregs(&special).map_err(failed("set registers"))?;
        let registers = kvm_regs {
            rip: u64::from(self.ip),
            rsp: u64::from(self.sp),
            rax: u64::from(self.ax),
            // Only the bit that is always set; interrupts are disabled.
            rflags: 2,
            ..kvm_regs::default()
        };
        vcpu.set_regs(&registers).map_err(failed("set registers"))?;
        let runnable = kvm_mp_state {
            mp_state: KVM_MP_STATE_RUNNABLE,
        };
        vcpu.set_mp_state(runnable)
            .map_err(failed("make a vcpu runnable"))
    }

    fn place(&self, segment: &mut kvm_segment) {
        segment.selector = self.segment;
        segment.base = u64::from(self.segment) << 4;
    }
}
