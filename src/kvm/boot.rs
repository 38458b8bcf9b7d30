//! Loads a kernel into a machine's memory, with everything that firmware and a boot loader would leave there.
//!
//! A [`KernelImage`] checks the files once. `KernelImage::load` writes the kernel, initrd, command line, memory map and ACPI
//! tables, at the start and at each reset, and answers where the first processor starts.
//!
//! There are two boot protocols. A bzImage starts in 64-bit mode with a zero page (the kernel's Documentation/arch/x86/boot.rst,
//! "64-bit Boot Protocol"). An ELF file with a PVH note starts in 32-bit mode with a start-info page (Xen's
//! docs/misc/pvh.pandoc); without the note it starts like a bzImage.
//!
//! * `kernel`, `initrd`: the files
//! * `layout`: the addresses
//! * `zero_page`, `pvh`, `memory_map`: what the kernel reads first
//! * `acpi`: the tables that describe the machine
//! * `registers`, `cpuid`: the registers and features of the processors
//!
//! # Layers
//! The code here works on memory and on the structures that KVM takes. It does not open /dev/kvm.
#![deny(unsafe_code)]

use std::path::Path;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::{Error, ErrorKind, Result};

mod acpi;
pub(super) mod cpuid;
mod initrd;
mod kernel;
pub(super) mod layout;
mod memory_map;
mod pvh;
pub(super) mod registers;
#[cfg(test)]
mod tests;
mod zero_page;

use initrd::Initrd;
use kernel::Kernel;

/// A virtio-mmio device, for the ACPI tables and the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MmioWindow {
    /// The guest physical address of its registers.
    pub(crate) address: u64,
    /// The length of its registers in bytes.
    pub(crate) length: u64,
    /// Its interrupt line.
    pub(crate) gsi: u32,
}

/// What the kernel has to know of the machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Platform {
    /// How many processors, 1 to [`layout::CPUS_MAX`].
    pub(crate) cpus: u8,
    /// The virtio-mmio devices, in the order in which the guest numbers them.
    pub(crate) virtio: Vec<MmioWindow>,
    /// Whether there is a serial port at [`layout::SERIAL`].
    pub(crate) serial: bool,
}

/// Where the first processor starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryPoint {
    /// In 64-bit mode, with the address of the zero page in RSI.
    Long {
        /// The first instruction.
        address: u64,
    },
    /// In 32-bit mode without paging, with the address of the start info in EBX.
    Pvh {
        /// The first instruction.
        address: u64,
    },
}

/// A kernel with its initrd and its command line.
#[derive(Debug)]
pub struct KernelImage {
    kernel: Kernel,
    initrd: Option<Initrd>,
    append: String,
}

impl KernelImage {
    /// Opens and checks the kernel's file.
    ///
    /// # Errors
    /// The file cannot be opened, or is not a kernel for this machine.
    pub fn open(kernel: &Path) -> Result<KernelImage> {
        Ok(KernelImage {
            kernel: Kernel::open(kernel)?,
            initrd: None,
            append: String::new(),
        })
    }

    /// Adds an initrd.
    ///
    /// # Errors
    /// The file cannot be opened, or is empty.
    pub fn set_initrd(&mut self, path: &Path) -> Result<()> {
        self.initrd = Some(Initrd::open(path)?);
        Ok(())
    }

    /// Sets the kernel's command line.
    ///
    /// # Errors
    /// It is too long for the kernel, or contains a NUL.
    pub fn set_command_line(&mut self, line: &str) -> Result<()> {
        if line.contains('\0') {
            return Err(invalid("the command line contains a NUL"));
        }
        self.check_command_line(line)?;
        line.clone_into(&mut self.append);
        Ok(())
    }

    /// Writes the kernel and everything that it reads when it starts.
    ///
    /// # Errors
    /// The memory is too small, or the command line too long. The message says how much is needed.
    pub(crate) fn load(&self, memory: &GuestMemoryMmap, platform: &Platform) -> Result<EntryPoint> {
        let low = memory_map::low_end(memory);
        self.check_room(low)?;
        let command_line = self.command_line(platform)?;
        let tables = acpi::Tables::new(platform);
        write(memory, layout::ACPI, &tables.bytes)?;
        write(memory, layout::RESET_VECTOR, &reset_code())?;
        write(memory, layout::COMMAND_LINE, command_line.as_bytes())?;
        write(
            memory,
            layout::COMMAND_LINE + as_u64(command_line.len()),
            &[0],
        )?;
        let loaded = self.kernel.load(memory)?;
        let initrd = self.initrd.as_ref();
        let initrd = initrd
            .map(|initrd| initrd.load(memory, self.initrd_end(low)))
            .transpose()?;
        let handover = Handover {
            map: memory_map::new(memory),
            initrd,
        };
        registers::write_tables(memory)?;
        if let Some(entry) = loaded.pvh_entry {
            pvh::write(memory, &handover)?;
            return Ok(EntryPoint::Pvh { address: entry });
        }
        zero_page::write(memory, &handover, loaded.setup_header)?;
        let address = loaded.entry;
        Ok(EntryPoint::Long { address })
    }

    /// Checks that the kernel, and the initrd above it, fit into low memory.
    fn check_room(&self, low: u64) -> Result<()> {
        let (mut what, mut needed, mut end) = (self.kernel.describe(), self.kernel.end(), low);
        if let Some(initrd) = &self.initrd {
            what = format!("{what} with {}", initrd.describe());
            needed = needed.saturating_add(initrd.room());
            end = self.initrd_end(low);
        }
        if end >= needed {
            return Ok(());
        }
        let (needed, end) = (needed.div_ceil(1 << 20), end >> 20);
        let message = format!(
            "{what} needs at least {needed} MiB of memory, there are {end} MiB within reach"
        );
        Err(invalid(message))
    }

    /// The end of the initrd.
    fn initrd_end(&self, low: u64) -> u64 {
        low.min(self.kernel.initrd_end_max())
    }

    /// The user's command line, and the virtio-mmio devices for kernels that do not read ACPI. What follows `--` is for init, so
    /// it stays last.
    fn command_line(&self, platform: &Platform) -> Result<String> {
        let devices = platform.virtio.iter();
        let words = devices.map(|window| {
            let MmioWindow {
                address,
                length,
                gsi,
            } = window;
            format!("virtio_mmio.device={length}@{address:#x}:{gsi}")
        });
        let (kernel, init) = match self.append.split_once(" -- ") {
            Some((kernel, init)) => (kernel, Some(format!("-- {init}"))),
            None => (self.append.as_str(), None),
        };
        let kernel = (!kernel.is_empty()).then(|| kernel.to_owned());
        let all = kernel.into_iter().chain(words).chain(init);
        let line = all.collect::<Vec<_>>().join(" ");
        self.check_command_line(&line)?;
        Ok(line)
    }

    fn check_command_line(&self, line: &str) -> Result<()> {
        let (length, max) = (line.len(), self.kernel.command_line_max());
        if length <= max {
            return Ok(());
        }
        let message =
            format!("the command line has {length} bytes, the kernel takes at most {max}");
        Err(invalid(message))
    }
}

/// The code at the reset vector: it writes to the reset register. On a hardware-reduced platform without EFI, Linux jumps here in
/// real mode to reset the machine.
fn reset_code() -> [u8; 10] {
    let [low, high] = layout::RESET.to_le_bytes();
    let value = layout::RESET_VALUE;
    // mov dx, RESET; mov al, RESET_VALUE; out dx, al; cli; hlt; jmp back to hlt
    [0xba, low, high, 0xb0, value, 0xee, 0xfa, 0xf4, 0xeb, 0xfd]
}

/// What both boot protocols pass to the kernel.
#[derive(Debug)]
struct Handover {
    map: Vec<memory_map::MemoryMapEntry>,
    /// The address and the length of the initrd.
    initrd: Option<(u64, u64)>,
}

fn write(memory: &GuestMemoryMmap, address: u64, bytes: &[u8]) -> Result<()> {
    memory
        .write_slice(bytes, GuestAddress(address))
        .map_err(|error| {
            let length = bytes.len();
            invalid(format!(
                "cannot write {length} bytes at {address:#x} of the guest's memory: {error}"
            ))
        })
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

fn as_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
