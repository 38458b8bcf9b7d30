//! The zero page of Linux' boot protocol (Documentation/arch/x86/zero-page.rst).
#![forbid(unsafe_code)]

use linux_loader::loader::bootparam::{LOADED_HIGH, boot_e820_entry, boot_params, setup_header};
use vm_memory::{ByteValued, GuestMemoryMmap};

use super::Handover;
use super::layout::{ACPI, COMMAND_LINE, ZERO_PAGE};
use super::memory_map::MemoryMapEntry;
use crate::Result;

/// The type of boot loaders without an assigned number.
const LOADER_OTHER: u8 = 0xff;

/// Writes the page. An ELF kernel has no setup header and gets one with the fields that every kernel reads.
pub(super) fn write(
    memory: &GuestMemoryMmap,
    handover: &Handover,
    header: Option<setup_header>,
) -> Result<()> {
    let mut page = boot_params {
        hdr: header.unwrap_or_else(plain_header),
        acpi_rsdp_addr: ACPI,
        ..boot_params::default()
    };
    page.hdr.type_of_loader = LOADER_OTHER;
    page.hdr.cmd_line_ptr = low(COMMAND_LINE);
    if let Some((start, length)) = handover.initrd {
        page.hdr.ramdisk_image = low(start);
        page.hdr.ramdisk_size = low(length);
    }
    let mut table = page.e820_table;
    for (entry, piece) in table.iter_mut().zip(&handover.map) {
        *entry = e820(piece);
        page.e820_entries += 1;
    }
    page.e820_table = table;
    super::write(memory, ZERO_PAGE, page.as_slice())
}

fn plain_header() -> setup_header {
    setup_header {
        boot_flag: 0xaa55,
        header: 0x5372_6448,
        loadflags: LOADED_HIGH,
        kernel_alignment: 0x100_0000,
        ..setup_header::default()
    }
}

fn e820(piece: &MemoryMapEntry) -> boot_e820_entry {
    boot_e820_entry {
        addr: piece.start,
        size: piece.length,
        r#type: piece.kind as u32,
    }
}

/// An address or a length below 4 GiB; everything that is passed to the kernel is there.
fn low(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
