//! The registers of the first processor when it starts, and the tables in memory that they point to.
#![forbid(unsafe_code)]

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::GuestMemoryMmap;

use super::layout::{GDT, IDT, PAGE_TABLES, STACK, START_INFO, ZERO_PAGE};
use super::{EntryPoint, write};
use crate::Result;

#[cfg(test)]
mod tests;

/// Bits of CR0, CR4 and EFER (AMD64 Architecture Programmer's Manual, volume 2, chapter 3).
const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// The bit of RFLAGS that is always set.
const RFLAGS_RESERVED: u64 = 1 << 1;

/// Bits of a page table entry.
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const PAGE: u64 = 4096;
/// How many GiB are identity-mapped.
const GIBIBYTES: u64 = 4;

/// The indices in the descriptor table that Linux' boot protocol demands.
const CODE: u16 = 2;
const DATA: u16 = 3;
const TASK: u16 = 4;

/// A segment descriptor with base 0 (APM volume 2, section 4.7).
#[derive(Clone, Copy)]
struct SegmentDescriptor {
    access: u8,
    flags: u8,
    limit: u32,
}

const LONG_CODE: SegmentDescriptor = SegmentDescriptor {
    access: 0x9b,
    flags: 0xa,
    limit: 0xf_ffff,
};
const FLAT_CODE: SegmentDescriptor = SegmentDescriptor {
    access: 0x9b,
    flags: 0xc,
    limit: 0xf_ffff,
};
const FLAT_DATA: SegmentDescriptor = SegmentDescriptor {
    access: 0x93,
    flags: 0xc,
    limit: 0xf_ffff,
};
const TASK_STATE: SegmentDescriptor = SegmentDescriptor {
    access: 0x8b,
    flags: 0,
    limit: 0x67,
};

/// The general registers.
pub(crate) fn general(entry: EntryPoint) -> kvm_regs {
    match entry {
        EntryPoint::Long { address } => kvm_regs {
            rflags: RFLAGS_RESERVED,
            rip: address,
            rsp: STACK,
            rbp: STACK,
            rsi: ZERO_PAGE,
            ..kvm_regs::default()
        },
        EntryPoint::Pvh { address } => kvm_regs {
            rflags: RFLAGS_RESERVED,
            rip: address,
            rbx: START_INFO,
            ..kvm_regs::default()
        },
    }
}

/// The system registers, made from those after a reset.
pub(crate) fn system(entry: EntryPoint, reset: kvm_sregs) -> kvm_sregs {
    let mut system = reset;
    let code = match entry {
        EntryPoint::Long { .. } => LONG_CODE,
        EntryPoint::Pvh { .. } => FLAT_CODE,
    };
    system.gdt = table(GDT, 8 * 5 - 1);
    system.idt = table(IDT, 7);
    system.cs = segment(code, CODE);
    let data = segment(FLAT_DATA, DATA);
    (system.ds, system.es, system.fs) = (data, data, data);
    (system.gs, system.ss) = (data, data);
    system.tr = segment(TASK_STATE, TASK);
    system.cr0 = CR0_PE | CR0_ET;
    system.cr4 = 0;
    if let EntryPoint::Long { .. } = entry {
        system.cr0 |= CR0_PG;
        system.cr3 = PAGE_TABLES;
        system.cr4 = CR4_PAE;
        system.efer = EFER_LME | EFER_LMA;
    }
    system
}

/// Writes the descriptor tables, and page tables that identity-map the first 4 GiB.
///
/// # Errors
/// The memory is too small.
pub(crate) fn write_tables(memory: &GuestMemoryMmap) -> Result<()> {
    let descriptors = [
        0,
        0,
        encode(LONG_CODE),
        encode(FLAT_DATA),
        encode(TASK_STATE),
    ];
    write_words(memory, GDT, &descriptors)?;
    write_words(memory, IDT, &[0])?;
    let directories = PAGE_TABLES + PAGE;
    let first = directories + PAGE;
    write_words(memory, PAGE_TABLES, &[directories | PRESENT | WRITABLE])?;
    let pointers: Vec<u64> = (0..GIBIBYTES)
        .map(|index| (first + index * PAGE) | PRESENT | WRITABLE)
        .collect();
    write_words(memory, directories, &pointers)?;
    let pages: Vec<u64> = (0..GIBIBYTES * 512)
        .map(|index| (index << 21) | PRESENT | WRITABLE | LARGE)
        .collect();
    write_words(memory, first, &pages)
}

fn write_words(memory: &GuestMemoryMmap, at: u64, words: &[u64]) -> Result<()> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    write(memory, at, &bytes)
}

fn table(base: u64, limit: u16) -> kvm_dtable {
    kvm_dtable {
        base,
        limit,
        padding: [0; 3],
    }
}

/// The descriptor as it is in memory.
fn encode(descriptor: SegmentDescriptor) -> u64 {
    let limit = u64::from(descriptor.limit);
    (limit & 0xffff)
        | u64::from(descriptor.access) << 40
        | (limit >> 16) << 48
        | u64::from(descriptor.flags) << 52
}

/// The descriptor as it is in a segment register.
fn segment(descriptor: SegmentDescriptor, index: u16) -> kvm_segment {
    let SegmentDescriptor {
        access,
        flags,
        limit,
    } = descriptor;
    let granular = flags >> 3 & 1;
    let limit = if granular == 1 {
        limit << 12 | 0xfff
    } else {
        limit
    };
    kvm_segment {
        base: 0,
        limit,
        selector: index * 8,
        type_: access & 0xf,
        present: access >> 7 & 1,
        dpl: access >> 5 & 3,
        db: flags >> 2 & 1,
        s: access >> 4 & 1,
        l: flags >> 1 & 1,
        g: granular,
        avl: flags & 1,
        unusable: 0,
        padding: 0,
    }
}
