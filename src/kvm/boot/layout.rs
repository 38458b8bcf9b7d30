//! The guest physical addresses, ports and interrupt lines of a machine that boots Linux.
//!
//! Below 1 MiB are the tables that a boot loader leaves for the kernel.
#![forbid(unsafe_code)]

/// The global descriptor table.
pub(crate) const GDT: u64 = 0x500;
/// An interrupt descriptor table without entries.
pub(crate) const IDT: u64 = 0x520;
/// The start info of the PVH protocol.
pub(crate) const START_INFO: u64 = 0x6000;
/// The module list of the PVH protocol.
pub(crate) const MODULES: u64 = 0x6100;
/// The memory map of the PVH protocol.
pub(crate) const MEMORY_MAP: u64 = 0x6200;
/// The zero page of Linux' own protocol.
pub(crate) const ZERO_PAGE: u64 = 0x7000;
/// The first stack; it grows down.
pub(crate) const STACK: u64 = 0x8ff0;
/// The top level of the page tables; the others follow.
pub(crate) const PAGE_TABLES: u64 = 0x9000;
/// The kernel's command line.
pub(crate) const COMMAND_LINE: u64 = 0x2_0000;
/// The end of conventional memory. A PC has its extended BIOS data area there.
pub(crate) const LOW_RAM_END: u64 = 0x9_fc00;
/// The ACPI tables; the root pointer is the first. Kernels search for it here.
pub(crate) const ACPI: u64 = 0xe_0000;
/// The reset vector of real mode. Kernels jump here if they have no other way to reset. Ends the space for ACPI tables.
pub(crate) const RESET_VECTOR: u64 = 0xf_fff0;
/// The start of memory above the reserved range; kernels are loaded here.
pub(crate) const HIGH_RAM: u64 = 0x10_0000;

/// The registers of the first virtio-mmio device.
pub(crate) const VIRTIO: u64 = 0xd000_0000;
/// The distance between the registers of two devices.
pub(crate) const VIRTIO_STRIDE: u64 = 0x1000;
/// The interrupt lines of virtio-mmio devices, in this order: those that no device of a PC uses.
pub(crate) const VIRTIO_GSIS: [u32; 16] =
    [16, 17, 18, 19, 20, 21, 22, 23, 5, 6, 7, 10, 11, 12, 14, 15];

/// The line of the power button.
pub(crate) const BUTTON_GSI: u32 = 9;

/// The local APIC of each processor.
pub(crate) const LOCAL_APIC: u32 = 0xfee0_0000;
/// The I/O APIC, whose lines are GSIs 0 to 23.
pub(crate) const IO_APIC: u32 = 0xfec0_0000;

/// The ports of the serial console.
pub(crate) const SERIAL: u16 = 0x3f8;
/// The serial console's line.
pub(crate) const SERIAL_GSI: u32 = 4;

/// The ports of `kvm::power`: the sleep control register, ...
pub(crate) const SLEEP_CONTROL: u16 = 0x600;
/// ... the sleep status register ...
pub(crate) const SLEEP_STATUS: u16 = 0x601;
/// ... and the reset register.
pub(crate) const RESET: u16 = 0x602;
/// The value that the guest writes to [`RESET`].
pub(crate) const RESET_VALUE: u8 = 1;
/// The sleep type that means power-off.
pub(crate) const SLEEP_TYPE_OFF: u8 = 5;

/// The command port of the keyboard controller, which has a reset line only ...
pub(crate) const KEYBOARD: u16 = 0x64;
/// ... and the command that pulls it.
pub(crate) const KEYBOARD_RESET: u8 = 0xfe;

/// The most processors. Their ids have 8 bits in the MADT, and 255 addresses all of them.
pub const CPUS_MAX: u8 = 254;
