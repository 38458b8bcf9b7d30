//! The start-info page of the PVH protocol (Xen's public/arch-x86/hvm/start_info.h).
#![forbid(unsafe_code)]

use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{ByteValued, GuestMemoryMmap};

use super::layout::{ACPI, COMMAND_LINE, MEMORY_MAP, MODULES, START_INFO};
use super::memory_map::MemoryMapEntry;
use super::{Handover, as_u64};
use crate::Result;

/// Writes the page, and the lists that it points to.
pub(super) fn write(memory: &GuestMemoryMmap, handover: &Handover) -> Result<()> {
    let mut info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        // The first version with a memory map.
        version: 1,
        cmdline_paddr: COMMAND_LINE,
        rsdp_paddr: ACPI,
        memmap_paddr: MEMORY_MAP,
        ..hvm_start_info::default()
    };
    for piece in &handover.map {
        let at = MEMORY_MAP
            + u64::from(info.memmap_entries) * as_u64(size_of::<hvm_memmap_table_entry>());
        super::write(memory, at, entry(piece).as_slice())?;
        info.memmap_entries += 1;
    }
    if let Some((paddr, size)) = handover.initrd {
        let module = hvm_modlist_entry {
            paddr,
            size,
            ..hvm_modlist_entry::default()
        };
        super::write(memory, MODULES, module.as_slice())?;
        info.modlist_paddr = MODULES;
        info.nr_modules = 1;
    }
    super::write(memory, START_INFO, info.as_slice())
}

fn entry(piece: &MemoryMapEntry) -> hvm_memmap_table_entry {
    hvm_memmap_table_entry {
        addr: piece.start,
        size: piece.length,
        type_: piece.kind as u32,
        reserved: 0,
    }
}
