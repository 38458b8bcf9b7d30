//! The features and registers that a machine's processors start with.
#![forbid(unsafe_code)]

use std::sync::Arc;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, VcpuFd};

use crate::kvm::boot::cpuid::{self, ProcessorIdentity};
use crate::kvm::boot::{EntryPoint, registers};
use crate::kvm::failed;
use crate::kvm::vcpu::PrepareVcpu;
use crate::{Error, ErrorKind, Result};

/// Prepares each vcpu: the first one starts at the kernel's entry point, the others when the kernel wakes them.
pub(super) fn prepare(cpus: u8, entry: EntryPoint) -> Result<PrepareVcpu> {
    let kvm = crate::kvm::open()?;
    let supported = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(failed("ask what processors it supports"))?;
    let supported: Vec<kvm_cpuid_entry2> = supported.as_slice().to_vec();
    let tsc_deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    Ok(Arc::new(move |index, vcpu: &VcpuFd| {
        let index = u8::try_from(index).unwrap_or(u8::MAX);
        let processor = ProcessorIdentity {
            index,
            count: cpus,
            tsc_deadline,
        };
        set_features(vcpu, &cpuid::leaves(&supported, processor))?;
        if index > 0 {
            return Ok(());
        }
        let reset = vcpu.get_sregs().map_err(failed("read registers"))?;
        vcpu.set_sregs(&registers::system(entry, reset))
            .map_err(failed("set system registers"))?;
        vcpu.set_regs(&registers::general(entry))
            .map_err(failed("set registers"))
    }))
}

fn set_features(vcpu: &VcpuFd, leaves: &[kvm_cpuid_entry2]) -> Result<()> {
    let too_many = |_| {
        Error::new(
            ErrorKind::LimitExceeded,
            "KVM: too many features of a processor",
        )
    };
    let leaves = CpuId::from_entries(leaves).map_err(too_many)?;
    vcpu.set_cpuid2(&leaves)
        .map_err(failed("set a processor's features"))?;
    let msrs = Msrs::from_entries(&cpuid::msrs()).map_err(too_many)?;
    let set = vcpu
        .set_msrs(&msrs)
        .map_err(failed("set model-specific registers"))?;
    match cpuid::msrs().get(set) {
        None => Ok(()),
        Some(entry) => {
            let message = format!("KVM: cannot set model-specific register {:#x}", entry.index);
            Err(Error::new(ErrorKind::Unsupported, message))
        }
    }
}
