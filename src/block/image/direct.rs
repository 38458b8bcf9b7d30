//! What direct I/O on an open image demands.
//!
//! Made when the image is opened, used by the way to it. The demands are between us and the host: a guest never sees them.
//! The kernel says what they are (statx since 6.1, or the sectors of a block device). Where it does not, reading tells the
//! least, and a request that the kernel finds misaligned later raises them.
#![allow(unsafe_code)] // statx

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::device;
use crate::block::bounce::{self, Bounce};
use crate::block::request::SECTOR;
use crate::block::write_order::WriteOrder;

/// What suits the devices and file systems of kernels that do not say what they want: a page.
const GUESS_MAX: u64 = 4096;

/// What memory, offsets and lengths must be multiples of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::block) struct Alignment {
    pub(in crate::block) memory: usize,
    pub(in crate::block) offset: u64,
}

impl Alignment {
    const NONE: Alignment = Alignment {
        memory: 1,
        offset: 1,
    };
}

/// What direct I/O on an image demands.
#[derive(Debug)]
pub(in crate::block) struct Direct {
    memory: AtomicUsize,
    offset: AtomicU64,
    /// The kernel has said so.
    is_certain: bool,
    /// Set if a request can be too fine for direct I/O.
    order: Option<Arc<WriteOrder>>,
    /// The file through the page cache. It takes writes to the last block of a file that ends within it.
    cached: Option<File>,
}

impl Direct {
    /// Finds out what direct I/O on `file` demands. `in_memory`: it is on tmpfs, which copies, and takes anything.
    ///
    /// # Errors
    /// `Unsupported` if that is more than a bounce buffer offers.
    pub(super) fn new(file: &File, in_memory: bool) -> io::Result<Direct> {
        let said = match in_memory {
            true => Some(Alignment::NONE),
            false => said_alignment(file),
        };
        let alignment = said.unwrap_or_else(|| guess(file));
        if alignment.memory > bounce::ALIGN || alignment.offset > bounce::ALIGN as u64 {
            let reason = "direct I/O on it takes blocks of more than 64 KiB only";
            return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
        }
        let is_certain = said.is_some();
        let is_fine = is_certain && alignment.offset <= SECTOR;
        Ok(Direct {
            memory: AtomicUsize::new(alignment.memory),
            offset: AtomicU64::new(alignment.offset.max(SECTOR)),
            is_certain,
            order: (!is_fine).then(Arc::default),
            cached: None,
        })
    }

    /// Whether a request can be too fine for direct I/O.
    pub(super) fn is_coarse(&self) -> bool {
        self.order.is_some()
    }

    pub(super) fn set_cached(&mut self, file: File) {
        self.cached = Some(file);
    }

    #[inline]
    pub(in crate::block) fn alignment(&self) -> Alignment {
        Alignment {
            memory: self.memory.load(Ordering::Relaxed),
            offset: self.offset.load(Ordering::Relaxed),
        }
    }

    /// Demands more, because the kernel found something misaligned. False if no more can be wrong.
    pub(in crate::block) fn raise(&self) -> bool {
        let now = self.alignment();
        if self.is_certain || now.offset >= GUESS_MAX {
            return false;
        }
        let next = now.offset * 2;
        self.offset.fetch_max(next, Ordering::Relaxed);
        let memory = usize::try_from(next).unwrap_or(usize::MAX);
        self.memory.fetch_max(memory, Ordering::Relaxed);
        true
    }

    /// The order of writes, if a request can be too fine for direct I/O.
    #[inline]
    pub(in crate::block) fn order(&self) -> Option<&Arc<WriteOrder>> {
        self.order.as_ref()
    }

    /// The largest unit of direct I/O that the image may turn out to have: what the order of writes goes by.
    pub(in crate::block) fn order_unit(&self) -> u64 {
        let unit = self.offset.load(Ordering::Relaxed);
        match self.is_certain {
            true => unit,
            false => unit.max(GUESS_MAX),
        }
    }

    /// The file through the page cache, if it is a file that is written.
    pub(in crate::block) fn cached(&self) -> Option<BorrowedFd<'_>> {
        self.cached.as_ref().map(File::as_fd)
    }
}

/// What the kernel says; `None` if it does not.
fn said_alignment(file: &File) -> Option<Alignment> {
    let device = device::sector_size(file).map(|size| Alignment {
        memory: usize::try_from(size).unwrap_or(usize::MAX),
        offset: size,
    });
    statx_alignment(file).or(device)
}

fn statx_alignment(file: &File) -> Option<Alignment> {
    // SAFETY: a zeroed statx is a valid out buffer.
    let mut statx: libc::statx = unsafe { mem::zeroed() };
    // SAFETY: an empty path with AT_EMPTY_PATH names the open fd; the buffer has the right type.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &raw mut statx,
        )
    };
    // Zeroes say that the file system takes no direct I/O on this file, although it could be opened so.
    let is_said = result == 0
        && statx.stx_mask & libc::STATX_DIOALIGN != 0
        && statx.stx_dio_mem_align.is_power_of_two()
        && statx.stx_dio_offset_align.is_power_of_two();
    is_said.then_some(Alignment {
        memory: statx.stx_dio_mem_align as usize,
        offset: u64::from(statx.stx_dio_offset_align),
    })
}

/// The least that reading the first bytes does not refuse. A hole or the end of the file may be read with less than data.
fn guess(file: &File) -> Alignment {
    let mut buffer = Bounce::new();
    let mut size = SECTOR;
    while size < GUESS_MAX && is_refused(file, &mut buffer, size) {
        size *= 2;
    }
    Alignment {
        memory: usize::try_from(size).unwrap_or(usize::MAX),
        offset: size,
    }
}

fn is_refused(file: &File, buffer: &mut Bounce, size: u64) -> bool {
    buffer.set_length(size);
    let read = file.read_at(buffer.bytes_mut(), 0);
    read.is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
}
