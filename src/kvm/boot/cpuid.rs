//! The CPUID leaves of each processor: those that KVM supports, with the processor's number filled in.
//!
//! The processors are cores of one package with one thread each. Leaf numbers and bits are from the manuals of AMD (APM volume 3,
//! appendix E) and Intel (SDM volume 2, CPUID).
#![forbid(unsafe_code)]

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2, kvm_msr_entry};

/// Leaf 1: timer modes of the local APIC; a guest under a hypervisor; several logical processors.
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
const HTT: u32 = 1 << 28;
/// Leaf 8000_0001: several cores.
const CMP_LEGACY: u32 = 1 << 1;
/// Leaves 0xb and 0x1f: types of topology levels.
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// MSRs that firmware sets: fast string instructions; write-back as default memory type.
const MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRINGS: u64 = 1;
const MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

/// The number of a processor, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessorIdentity {
    /// Its number, which is its APIC id.
    pub(crate) index: u8,
    /// How many there are.
    pub(crate) count: u8,
    /// Whether KVM's local APIC has the TSC-deadline timer. KVM's leaves do not say it.
    pub(crate) tsc_deadline: bool,
}

/// The leaves of a processor, made from those that KVM supports.
pub(crate) fn leaves(
    supported: &[kvm_cpuid_entry2],
    processor: ProcessorIdentity,
) -> Vec<kvm_cpuid_entry2> {
    let is_level = |leaf: &kvm_cpuid_entry2| matches!(leaf.function, 0xb | 0x1f);
    let mut leaves: Vec<_> = supported
        .iter()
        .filter(|leaf| !is_level(leaf))
        .copied()
        .collect();
    for leaf in &mut leaves {
        adapt(leaf, processor);
    }
    // The topology leaves are replaced. If KVM has none, its highest leaf may be below them, so none is added.
    for function in [0xb, 0x1f] {
        if supported.iter().any(|leaf| leaf.function == function) {
            leaves.extend(levels(function, processor));
        }
    }
    leaves
}

/// The model-specific registers that differ from their values after a reset.
pub(crate) fn msrs() -> [kvm_msr_entry; 2] {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..kvm_msr_entry::default()
    };
    [
        entry(MISC_ENABLE, MISC_ENABLE_FAST_STRINGS),
        entry(MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK),
    ]
}

fn adapt(leaf: &mut kvm_cpuid_entry2, processor: ProcessorIdentity) {
    let (index, count) = (u32::from(processor.index), u32::from(processor.count));
    let several = count > 1;
    match leaf.function {
        1 => {
            // Bits 16 to 23 are the number of APIC ids, a power of two.
            leaf.ebx = leaf.ebx & 0xffff | (1 << id_bits(count)).min(255) << 16 | index << 24;
            leaf.ecx |= HYPERVISOR;
            set(&mut leaf.ecx, TSC_DEADLINE, processor.tsc_deadline);
            set(&mut leaf.edx, HTT, several);
        }
        // No cache is shared between processors; bits 26 to 31 are the number of core ids.
        4 if leaf.eax & 0x1f != 0 => {
            leaf.eax = leaf.eax & 0x3fff | ((1 << id_bits(count)) - 1) << 26;
        }
        0x8000_0001 => set(&mut leaf.ecx, CMP_LEGACY, several),
        0x8000_0008 => leaf.ecx = leaf.ecx & !0xf0ff | id_bits(count) << 12 | (count - 1),
        // AMD: extended APIC id; one thread per core; one node.
        0x8000_001e => {
            leaf.eax = index;
            leaf.ebx = index;
            leaf.ecx = 0;
        }
        _ => {}
    }
}

/// Two topology levels and the end: threads of a core, cores of the package.
fn levels(function: u32, processor: ProcessorIdentity) -> [kvm_cpuid_entry2; 3] {
    let (index, count) = (u32::from(processor.index), u32::from(processor.count));
    let level = |subleaf, shift, processors, kind: u32| kvm_cpuid_entry2 {
        function,
        index: subleaf,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: processors,
        ecx: subleaf | kind << 8,
        edx: index,
        ..kvm_cpuid_entry2::default()
    };
    [
        level(0, 0, 1, LEVEL_THREAD),
        level(1, id_bits(count), count, LEVEL_CORE),
        level(2, 0, 0, 0),
    ]
}

/// How many bits the largest APIC id has.
fn id_bits(count: u32) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

fn set(register: &mut u32, bit: u32, on: bool) {
    *register = if on {
        *register | bit
    } else {
        *register & !bit
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            eax: 0x1,
            ebx: 0x5500_08ff,
            ecx: TSC_DEADLINE,
            edx: 0x77,
            ..kvm_cpuid_entry2::default()
        }
    }

    fn of(function: u32, index: u8, count: u8) -> Vec<kvm_cpuid_entry2> {
        let supported = [
            leaf(1),
            leaf(4),
            leaf(0xb),
            leaf(0x8000_0001),
            leaf(0x8000_0008),
            leaf(0x8000_001e),
        ];
        let processor = ProcessorIdentity {
            index,
            count,
            tsc_deadline: false,
        };
        let leaves = leaves(&supported, processor);
        leaves
            .into_iter()
            .filter(|leaf| leaf.function == function)
            .collect()
    }

    #[test]
    fn processors_know_their_numbers() {
        let first = of(1, 0, 1)[0];
        assert_eq!((first.ebx, first.edx & HTT), (0x0001_08ff, 0));
        let third = of(1, 2, 3)[0];
        assert_eq!((third.ebx, third.edx & HTT), (0x0204_08ff, HTT));
        assert_eq!(third.ecx, HYPERVISOR);
        assert_eq!(of(1, 130, 200)[0].ebx, 0x82ff_08ff);
        assert_eq!(of(0x8000_001e, 2, 3)[0].eax, 2);
        assert_eq!(of(0x8000_0008, 2, 3)[0].ecx & 0xf0ff, 0x2002);
        assert_eq!(of(4, 2, 3)[0].eax, 1 | 3 << 26);
        assert_eq!(of(0x8000_0001, 0, 1)[0].ecx & CMP_LEGACY, 0);
    }

    #[test]
    fn levels_are_threads_and_cores() {
        let levels = of(0xb, 2, 3);
        let shown: Vec<_> = levels
            .iter()
            .map(|level| (level.index, level.eax, level.ebx, level.ecx, level.edx))
            .collect();
        assert_eq!(
            shown,
            [(0, 0, 1, 0x100, 2), (1, 2, 3, 0x201, 2), (2, 0, 0, 2, 2)]
        );
        assert!(of(0x1f, 0, 1).is_empty());
    }
}
