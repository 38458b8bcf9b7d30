//! A machine's memory: one memfd, mapped into this process and into the guest.
//!
//! The machine gives it to KVM, devices get it as a [`GuestMemory`], and loaders of kernels as a [`GuestMemoryMmap`].
//!
//! # Invariants
//! 1. The host addresses that KVM has stay mapped as long as any clone of [`Ram::memory`] lives. The machine holds one until its
//!    KVM file descriptors are closed.
#![allow(unsafe_code)] // makes an owned fd of a new memfd
#![allow(clippy::single_range_in_vec_init)] // memory is a list of ranges, often of one

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

use crate::virtio::memory::{GuestMemory, MemoryRegion};
use crate::{Error, ErrorKind, Result};

/// The end of low memory on a PC. Device registers and interrupt controllers are above.
pub(crate) const LOW_END: u64 = 0xc000_0000;
/// The start of the memory that does not fit below [`LOW_END`].
pub(crate) const HIGH_START: u64 = 0x1_0000_0000;

/// A machine's memory.
#[derive(Debug)]
pub struct Ram {
    fd: OwnedFd,
    memory: GuestMemory,
    areas: Vec<Area>,
}

/// A range of guest physical memory, and the host addresses where it is mapped.
#[derive(Clone, Debug)]
pub(super) struct Area {
    pub(super) guest: Range<u64>,
    pub(super) host: usize,
    offset: u64,
}

/// The ranges of `size` bytes of memory on a PC, which has a hole below 4 GiB.
pub fn layout(size: u64) -> Vec<Range<u64>> {
    if size <= LOW_END {
        return vec![0..size];
    }
    vec![0..LOW_END, HIGH_START..HIGH_START + (size - LOW_END)]
}

impl Ram {
    /// Memory at these guest physical ranges, all zeroes.
    ///
    /// # Errors
    /// `InvalidArgument` if a range is empty, overlaps another or is not made of whole pages; `Os` if the host has not enough
    /// memory.
    pub fn new(ranges: &[Range<u64>]) -> Result<Ram> {
        let fd = memfd()?;
        let size = ranges
            .iter()
            .map(|range| range.end.saturating_sub(range.start));
        let size = size.fold(0, u64::saturating_add);
        grow(&fd, size)?;
        let mut ram = Ram {
            fd,
            memory: GuestMemory::new(),
            areas: Vec::new(),
        };
        let mut offset = 0;
        for range in ranges {
            ram.add(range.clone(), offset)?;
            offset += range.end - range.start;
        }
        Ok(ram)
    }

    fn add(&mut self, guest: Range<u64>, offset: u64) -> Result<()> {
        let (start, size) = (guest.start, guest.end.saturating_sub(guest.start));
        if !start.is_multiple_of(4096) || !size.is_multiple_of(4096) {
            let message =
                format!("memory at {start:#x} of {size} bytes is not made of whole pages");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        self.memory = self.memory.with_region(MemoryRegion {
            guest_addr: start,
            size,
            user_addr: start,
            fd: duplicate(&self.fd)?,
            offset,
        })?;
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        let host = self.memory.contiguous(start, length);
        let host = host.ok_or_else(|| Error::new(ErrorKind::LimitExceeded, "too much memory"))?;
        self.areas.push(Area {
            guest,
            host: host.as_ptr().expose_provenance(),
            offset,
        });
        Ok(())
    }

    /// The memory, for devices.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The guest physical ranges.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        self.areas.iter().map(|area| area.guest.clone())
    }

    /// The same memory mapped once more, for loaders of kernels.
    ///
    /// # Errors
    /// `Os` if it cannot be mapped.
    pub fn map(&self) -> Result<GuestMemoryMmap> {
        let area = |area: &Area| {
            let length = area.guest.end - area.guest.start;
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let file = File::from(duplicate(&self.fd)?);
            let file = Some(FileOffset::new(file, area.offset));
            Ok((GuestAddress(area.guest.start), length, file))
        };
        let areas = self.areas.iter().map(area).collect::<Result<Vec<_>>>()?;
        GuestMemoryMmap::from_ranges_with_files(areas).map_err(|error| {
            let message = format!("cannot map the machine's memory: {error}");
            Error::new(ErrorKind::Os, message)
        })
    }

    pub(super) fn areas(&self) -> &[Area] {
        &self.areas
    }
}

fn memfd() -> Result<OwnedFd> {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"guest-ram".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(Error::last_os("cannot make the machine's memory"));
    }
    // SAFETY: the fd is new, and this is its only owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn grow(fd: &OwnedFd, size: u64) -> Result<()> {
    let length = i64::try_from(size).unwrap_or(i64::MAX);
    // SAFETY: our own file.
    match unsafe { libc::ftruncate(fd.as_raw_fd(), length) } {
        0 => Ok(()),
        _ => Err(Error::last_os(format!(
            "cannot make {size} bytes of memory"
        ))),
    }
}

fn duplicate(fd: &OwnedFd) -> Result<OwnedFd> {
    fd.try_clone()
        .map_err(|error| Error::os("cannot duplicate the memory's fd", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn memory_above_three_gibibytes_goes_on_at_four() {
        assert_eq!(layout(256 << 20), [0..256 << 20]);
        assert_eq!(layout(3 << 30), [0..3 << 30]);
        assert_eq!(layout(5 << 30), [0..3 << 30, 4 << 30..6 << 30]);
    }

    #[test]
    fn all_views_show_the_same_bytes() {
        let ram = Ram::new(&[0..0x1000, 0x8000..0xa000]).unwrap();
        let view = ram.map().unwrap();
        view.write_slice(b"high", GuestAddress(0x9ffc)).unwrap();
        assert!(ram.memory().write(0xffc, b"low!"));
        let mut bytes = [0; 4];
        assert!(ram.memory().read(0x9ffc, &mut bytes));
        assert_eq!(&bytes, b"high");
        view.read_slice(&mut bytes, GuestAddress(0xffc)).unwrap();
        assert_eq!(&bytes, b"low!");
    }

    #[test]
    fn ranges_that_make_no_sense_are_refused() {
        for ranges in [
            vec![0..0x800],
            vec![0..0x2000, 0x1000..0x3000],
            vec![0x1000..0x1000],
        ] {
            assert!(Ram::new(&ranges).is_err(), "{ranges:?}");
        }
    }
}
