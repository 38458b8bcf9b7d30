//! Where things are in a machine that boots Linux.
//!
//! Below 1 MiB stands what a loader leaves behind, the kernel's decompressor and its early code read it there.
#![forbid(unsafe_code)]

/// The global descriptor table.
pub const GDT: u64 = 0x500;
/// An interrupt descriptor table without entries.
pub const IDT: u64 = 0x520;
/// The start info of the PVH protocol.
pub const START_INFO: u64 = 0x6000;
/// The module list of the PVH protocol.
pub const MODULES: u64 = 0x6100;
/// The memory map of the PVH protocol.
pub const MEMORY_MAP: u64 = 0x6200;
/// The zero page of Linux' own protocol.
pub const ZERO_PAGE: u64 = 0x7000;
/// The first stack; it grows down.
pub const STACK: u64 = 0x8ff0;
/// The top level of the page tables; the others follow.
pub const PAGE_TABLES: u64 = 0x9000;
/// The kernel's command line.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// Where conventional memory ends: a PC has its extended BIOS data area there.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// The ACPI tables, of which the root pointer is the first. Kernels also search here.
pub const ACPI: u64 = 0xe_0000;
/// Where a processor begins in real mode, and where kernels jump that have no better way to reset the machine. The end of
/// the space for ACPI tables.
pub const RESET_VECTOR: u64 = 0xf_fff0;
/// Where memory for everybody goes on.
pub const HIGH_RAM: u64 = 0x10_0000;

/// The windows of virtio-mmio devices, one after the other.
pub const VIRTIO: u64 = 0xd000_0000;
/// From one device's window to the next.
pub const VIRTIO_STRIDE: u64 = 0x1000;
/// The lines of virtio-mmio devices, in the order in which they are given out: what the PC's own devices leave free.
pub const VIRTIO_GSIS: [u32; 16] = [16, 17, 18, 19, 20, 21, 22, 23, 5, 6, 7, 10, 11, 12, 14, 15];

/// The line of the power button.
pub const BUTTON_GSI: u32 = 9;

/// The local APIC of each processor.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// The I/O APIC, whose lines are GSIs 0 to 23.
pub const IO_APIC: u32 = 0xfec0_0000;

/// The ports of the serial console.
pub const SERIAL: u16 = 0x3f8;
/// The serial console's line.
pub const SERIAL_GSI: u32 = 4;

/// The ports of [`crate::kvm::power`]: the sleep control register, ...
pub const SLEEP_CONTROL: u16 = 0x600;
/// ... the sleep status register ...
pub const SLEEP_STATUS: u16 = 0x601;
/// ... and the reset register.
pub const RESET: u16 = 0x602;
/// What a guest writes to [`RESET`] to be reset.
pub const RESET_VALUE: u8 = 1;
/// The sleep type that means power-off.
pub const SLEEP_TYPE_OFF: u8 = 5;

/// The command port of a keyboard controller, of which only the reset line is there ...
pub const KEYBOARD: u16 = 0x64;
/// ... and the command that pulls it.
pub const KEYBOARD_RESET: u8 = 0xfe;

/// The most processors: their ids have 8 bits in the MADT, and 255 is everybody.
pub const CPUS_MAX: u8 = 254;
