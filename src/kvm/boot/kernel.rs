//! The kernel's file: its format, its addresses, and whether it can run here.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Seek;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use linux_loader::loader::bootparam::{XLF_KERNEL_64, setup_header};
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::{BzImage, Elf, KernelLoader};
use vm_memory::{ByteValued, GuestAddress, GuestMemoryMmap};

use super::invalid;
use super::layout::HIGH_RAM;
use crate::{Error, Result};

/// The offset of the setup header in a bzImage.
const SETUP_HEADER: u64 = 0x1f1;
/// `HdrS`
const SETUP_MAGIC: u32 = 0x5372_6448;
/// The first version of the boot protocol with `xloadflags`, 2.12.
const PROTOCOL_MIN: u16 = 0x020c;
/// The offset of the 64-bit entry point in a loaded bzImage.
const LONG_ENTRY: u64 = 0x200;

/// The machine type and the class of an ELF file for x86-64.
const EM_X86_64: u16 = 62;
const ELFCLASS64: u8 = 2;
/// The type of a program header whose segment is loaded.
const PT_LOAD: u32 = 1;

/// The longest command line of Linux on x86, `COMMAND_LINE_SIZE` without the NUL.
const COMMAND_LINE_MAX: usize = 2047;
/// The highest end of an initrd for kernels without a setup header.
const INITRD_END_MAX: u64 = 1 << 32;

/// A kernel's file that was checked.
#[derive(Debug)]
pub(super) struct Kernel {
    path: PathBuf,
    file: File,
    format: Format,
}

#[derive(Debug)]
enum Format {
    BzImage(Box<setup_header>),
    Elf {
        /// The highest end of its segments.
        end: u64,
    },
}

/// A kernel in the guest's memory.
#[derive(Debug)]
pub(super) struct Loaded {
    /// The entry in 64-bit mode.
    pub(super) entry: u64,
    /// The entry in 32-bit mode, if there is a PVH note.
    pub(super) pvh_entry: Option<u64>,
    pub(super) setup_header: Option<setup_header>,
}

impl Kernel {
    pub(super) fn open(path: &Path) -> Result<Kernel> {
        let name = path.display();
        let file = File::open(path)
            .map_err(|error| Error::os(format!("cannot open kernel '{name}'"), error))?;
        let kernel = Kernel {
            path: path.to_owned(),
            format: Format::Elf { end: 0 },
            file,
        };
        let format = match kernel.bytes::<[u8; 4]>(0) {
            Some(magic) if magic == *b"\x7fELF" => kernel.inspect_elf()?,
            _ => kernel.inspect_bzimage()?,
        };
        Ok(Kernel { format, ..kernel })
    }

    pub(super) fn describe(&self) -> String {
        format!("kernel '{}'", self.path.display())
    }

    /// The end of the memory that the kernel uses before it reads the memory map.
    pub(super) fn end(&self) -> u64 {
        match &self.format {
            Format::BzImage(header) => {
                let loaded = HIGH_RAM + self.file.metadata().map_or(0, |metadata| metadata.len());
                let unpacked = header.pref_address.saturating_add(header.init_size.into());
                loaded.max(unpacked)
            }
            Format::Elf { end } => *end,
        }
    }

    /// The highest end of an initrd.
    pub(super) fn initrd_end_max(&self) -> u64 {
        match &self.format {
            Format::BzImage(header) => u64::from(header.initrd_addr_max) + 1,
            Format::Elf { .. } => INITRD_END_MAX,
        }
    }

    /// The longest command line, without the NUL.
    pub(super) fn command_line_max(&self) -> usize {
        match &self.format {
            Format::BzImage(header) => {
                usize::try_from(header.cmdline_size).unwrap_or(COMMAND_LINE_MAX)
            }
            Format::Elf { .. } => COMMAND_LINE_MAX,
        }
        .min(COMMAND_LINE_MAX)
    }

    /// Writes the kernel to its address.
    pub(super) fn load(&self, memory: &GuestMemoryMmap) -> Result<Loaded> {
        let failed = |error: &dyn std::fmt::Display| {
            invalid(format!("cannot load {}: {error}", self.describe()))
        };
        // A second handle, because reading moves the file's offset.
        let mut file = self.file.try_clone().map_err(|error| failed(&error))?;
        file.rewind().map_err(|error| failed(&error))?;
        let high = Some(GuestAddress(HIGH_RAM));
        if matches!(self.format, Format::BzImage(_)) {
            let start = Some(GuestAddress(HIGH_RAM));
            let loaded =
                BzImage::load(memory, start, &mut file, high).map_err(|error| failed(&error))?;
            return Ok(Loaded {
                entry: loaded.kernel_load.0 + LONG_ENTRY,
                pvh_entry: None,
                setup_header: loaded.setup_header,
            });
        }
        let loaded = Elf::load(memory, None, &mut file, high).map_err(|error| failed(&error))?;
        let pvh_entry = match loaded.pvh_boot_cap {
            PvhBootCapability::PvhEntryPresent(entry) => Some(entry.0),
            _ => None,
        };
        Ok(Loaded {
            entry: loaded.kernel_load.0,
            pvh_entry,
            setup_header: None,
        })
    }

    fn inspect_bzimage(&self) -> Result<Format> {
        let header = self.bytes::<setup_header>(SETUP_HEADER);
        let header = header.filter(|header| header.header == SETUP_MAGIC);
        let Some(header) = header else {
            return Err(self.refuse("is neither a bzImage nor an ELF file"));
        };
        if header.version < PROTOCOL_MIN || header.xloadflags & XLF_KERNEL_64 == 0 {
            return Err(self.refuse("has no 64-bit entry"));
        }
        Ok(Format::BzImage(Box::new(header)))
    }

    fn inspect_elf(&self) -> Result<Format> {
        let class = self.bytes::<u8>(4);
        let machine = self.bytes::<u16>(18);
        if class != Some(ELFCLASS64) || machine != Some(EM_X86_64) {
            return Err(self.refuse("is not an ELF file for x86-64"));
        }
        let segments = self.segments();
        let segments = segments.ok_or_else(|| self.refuse("is an ELF file that is cut off"))?;
        // The memory below holds the zero page, the tables and the command line.
        if segments.is_empty() || segments.iter().any(|(start, _)| *start < HIGH_RAM) {
            return Err(self.refuse("is to be loaded below 1 MiB, or nowhere"));
        }
        let ends = segments
            .iter()
            .map(|(start, length)| start.checked_add(*length));
        match ends.collect::<Option<Vec<u64>>>() {
            Some(ends) => Ok(Format::Elf {
                end: ends.into_iter().max().unwrap_or(HIGH_RAM),
            }),
            None => Err(self.refuse("is to be loaded beyond the end of all memory")),
        }
    }

    /// The physical address and the length in memory of each segment that is loaded (ELF-64, "Program Header").
    fn segments(&self) -> Option<Vec<(u64, u64)>> {
        let table: u64 = self.bytes(32)?;
        let count: u16 = self.bytes(56)?;
        let mut segments = Vec::new();
        for index in 0..u64::from(count) {
            let at = table.checked_add(index * 56)?;
            let (kind, length): (u32, u64) = (self.bytes(at)?, self.bytes(at + 40)?);
            if kind == PT_LOAD && length > 0 {
                segments.push((self.bytes(at + 24)?, length));
            }
        }
        Some(segments)
    }

    /// Reads a value; `None` beyond the end of the file.
    fn bytes<T: ByteValued>(&self, offset: u64) -> Option<T> {
        let mut value = T::zeroed();
        self.file
            .read_exact_at(value.as_mut_slice(), offset)
            .ok()
            .map(|()| value)
    }

    fn refuse(&self, what: &str) -> Error {
        let message = format!(
            "{} {what}, expected a 64-bit bzImage or an ELF kernel",
            self.describe()
        );
        invalid(message)
    }
}
