//! One shared memory file mapped into this process.
//!
//! Used by [`super::GuestMemory`]: every snapshot that has the region holds an `Arc` of its mapping. The memory is unmapped
//! when the last of them is dropped.
#![allow(unsafe_code)] // mmap and munmap

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

use super::fault::MappingRegistration;
use crate::{Error, ErrorKind, Resource, Result};

const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

/// `len` bytes of a file at `offset`, shared with the peer.
#[derive(Debug)]
pub(super) struct Mapping {
    /// Dropped before the memory is unmapped: the SIGBUS handler must not know a range that is not mapped.
    registration: Option<MappingRegistration>,
    base: NonNull<u8>,
    mapped: usize,
    /// Where the region begins inside the mapping: offsets need not be page multiples.
    skip: usize,
}

// SAFETY: the mapping is plain memory, valid from any thread until drop; the peer changes it at any time anyway, so
// all access goes through volatile copies.
unsafe impl Send for Mapping {}
// SAFETY: as above; the methods only read the descriptive fields.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `size` bytes of `fd` from `offset` on, for reading and writing.
    pub(super) fn new(fd: BorrowedFd<'_>, offset: u64, size: u64) -> Result<Mapping> {
        let page = check_file(fd, offset, size)?;
        let skip = offset % page;
        let too_large = || invalid("memory region is larger than the address space");
        let mapped = size.checked_add(skip).ok_or_else(too_large)?;
        let mapped = mapped
            .checked_next_multiple_of(page)
            .and_then(|len| usize::try_from(len).ok())
            .ok_or_else(too_large)?;
        let start = i64::try_from(offset - skip).map_err(|_| too_large())?;
        let base = map(fd, start, mapped)?;
        let to_usize = |value: u64| usize::try_from(value).map_err(|_| too_large());
        Ok(Mapping {
            registration: Some(MappingRegistration::new(
                base.as_ptr() as usize,
                mapped,
                to_usize(page)?,
            )),
            base,
            mapped,
            skip: to_usize(skip)?,
        })
    }

    /// The first byte of the region.
    pub(super) fn start(&self) -> *mut u8 {
        self.base.as_ptr().wrapping_add(self.skip)
    }

    /// Whether the peer took memory away from under the mapping.
    pub(super) fn is_poisoned(&self) -> bool {
        self.registration
            .as_ref()
            .is_some_and(MappingRegistration::is_poisoned)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.registration = None;
        // SAFETY: base and mapped are what mmap was asked for; every user of the memory holds an Arc of this.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.mapped) };
    }
}

/// Refuses regions beyond the end of a regular file, and answers the page size of the file's memory.
fn check_file(fd: BorrowedFd<'_>, offset: u64, size: u64) -> Result<u64> {
    let end = offset
        .checked_add(size)
        .ok_or_else(|| invalid("memory region wraps around"))?;
    // SAFETY: a zeroed stat is a valid out buffer.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the fd is open and the buffer has the right type.
    if unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) } != 0 {
        return Err(Error::last_os("cannot look at the memory region's file"));
    }
    let length = u64::try_from(stat.st_size).unwrap_or(0);
    if stat.st_mode & libc::S_IFMT == libc::S_IFREG && end > length {
        return Err(invalid(format!(
            "memory region of {size} bytes at offset {offset} lies beyond the end of its file of {length} bytes"
        )));
    }
    page_size(fd)
}

/// The size of the pages behind `fd`: hugetlbfs has its own.
fn page_size(fd: BorrowedFd<'_>) -> Result<u64> {
    // SAFETY: a zeroed statfs is a valid out buffer.
    let mut statfs: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the fd is open and the buffer has the right type.
    if unsafe { libc::fstatfs(fd.as_raw_fd(), &raw mut statfs) } != 0 {
        return Err(Error::last_os(
            "cannot look at the memory region's file system",
        ));
    }
    // SAFETY: sysconf has no preconditions.
    let system = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page = if statfs.f_type == HUGETLBFS_MAGIC {
        statfs.f_bsize
    } else {
        system
    };
    u64::try_from(page)
        .ok()
        .filter(|page| page.is_power_of_two())
        .ok_or_else(|| invalid("the memory region's file has no usable page size"))
}

fn map(fd: BorrowedFd<'_>, offset: i64, len: usize) -> Result<NonNull<u8>> {
    // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
    let base = unsafe {
        libc::mmap(
            ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
            fd.as_raw_fd(),
            offset,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(Error::limited(
            format!("cannot map a memory region of {len} bytes"),
            io::Error::last_os_error(),
            Resource::Mapping,
        ));
    }
    // SAFETY: the range was just mapped; keeping guest memory out of core files is advice only.
    unsafe { libc::madvise(base, len, libc::MADV_DONTDUMP) };
    NonNull::new(base.cast()).ok_or_else(|| invalid("memory region mapped at address 0"))
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
