//! The memory that a guest shares with its devices.
//!
//! Used by the transports, which build a [`GuestMemory`] from fds, and by [`super::queue`], which translates addresses with
//! it.
//!
//! * `mapping`: one mapped file
//! * `slice`: a translated piece
//! * `fault`: what happens when a peer truncates a mapped file
//!
//! # Threads
//! A `GuestMemory` is an immutable snapshot behind an `Arc`: any thread may clone and use it. Adding or removing a region
//! makes a new snapshot; the old one lives as long as it has users.
//!
//! # Invariants
//! 1. Regions are sorted by guest address and do not overlap, and none wraps around the end of its address space.
//! 2. What translation hands out borrows the snapshot; a pointer taken from it is valid as long as any clone of the
//!    snapshot lives.
#![allow(unsafe_code)] // vouches for the bounds of slices

use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr;
use std::sync::Arc;

use crate::{Error, ErrorKind, Result};

pub(crate) mod fault;
mod mapping;
mod slice;
#[cfg(test)]
mod tests;

use mapping::Mapping;
pub(crate) use slice::BytePlace;
pub use slice::GuestSlice;

/// The most regions that a snapshot holds.
pub(crate) const REGIONS_MAX: usize = 512;

/// One region as a front end describes it.
#[derive(Debug)]
pub struct MemoryRegion {
    /// The guest physical address of its first byte.
    pub guest_addr: u64,
    /// Its length in bytes; need not be a multiple of the page size.
    pub size: u64,
    /// The address of its first byte in the front end's own address space.
    pub user_addr: u64,
    /// The file that holds it.
    pub fd: OwnedFd,
    /// Where it begins in the file; need not be a multiple of the page size.
    pub offset: u64,
}

/// An immutable snapshot of a guest's memory.
#[derive(Clone, Default)]
pub struct GuestMemory {
    regions: Arc<[MappedRegion]>,
}

#[derive(Clone, Debug)]
struct MappedRegion {
    guest: Range<u64>,
    user_addr: u64,
    mapping: Arc<Mapping>,
}

/// The last two regions in which an address was found, the newer one first. Two, because a request's header, data and
/// status often lie in two regions in turn.
#[derive(Debug, Default)]
pub(crate) struct Hint(Cell<[usize; 2]>);

impl GuestMemory {
    /// A guest without memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// This memory and one more region, mapped from its file.
    ///
    /// # Errors
    /// `InvalidArgument` if the region is empty, wraps, overlaps another or lies beyond its file; `LimitExceeded`
    /// above 512 regions; `Os` if it cannot be mapped.
    pub fn with_region(&self, region: MemoryRegion) -> Result<GuestMemory> {
        let guest = checked_range(region.guest_addr, region.size, "guest")?;
        checked_range(region.user_addr, region.size, "user")?;
        if self.regions.len() >= REGIONS_MAX {
            let message = format!("a guest can have at most {REGIONS_MAX} memory regions");
            return Err(Error::new(ErrorKind::LimitExceeded, message));
        }
        let at = self
            .regions
            .partition_point(|other| other.guest.end <= guest.start);
        if self
            .regions
            .get(at)
            .is_some_and(|other| other.guest.start < guest.end)
        {
            let message = format!("memory region at {:#x} overlaps another", guest.start);
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let mapping = Mapping::new(region.fd.as_fd(), region.offset, region.size)?;
        let mut regions = self.regions.to_vec();
        let added = MappedRegion {
            guest,
            user_addr: region.user_addr,
            mapping: Arc::new(mapping),
        };
        regions.insert(at, added);
        Ok(GuestMemory {
            regions: regions.into(),
        })
    }

    /// This memory without the region that was added with exactly these values.
    ///
    /// # Errors
    /// `NotFound` if there is no such region.
    pub(crate) fn without_region(
        &self,
        guest_addr: u64,
        size: u64,
        user_addr: u64,
    ) -> Result<GuestMemory> {
        let is_it = |region: &&MappedRegion| {
            region.guest.start == guest_addr
                && region.guest.end - region.guest.start == size
                && region.user_addr == user_addr
        };
        if !self.regions.iter().any(|region| is_it(&region)) {
            let message = format!("there is no memory region of {size} bytes at {guest_addr:#x}");
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        let rest = self.regions.iter().filter(|region| !is_it(region)).cloned();
        Ok(GuestMemory {
            regions: rest.collect(),
        })
    }

    /// The number of regions.
    pub(crate) fn region_count(&self) -> usize {
        self.regions.len()
    }

    /// The guest physical address of an address in the front end's own address space.
    pub(crate) fn user_to_guest(&self, user_addr: u64) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let offset = user_addr.checked_sub(region.user_addr)?;
            (offset < region.guest.end - region.guest.start).then(|| region.guest.start + offset)
        })
    }

    /// Whether the peer took pages away from any of the regions.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.regions
            .iter()
            .any(|region| region.mapping.is_poisoned())
    }

    /// Copies guest memory out; `false` if part of the range is not the guest's.
    pub fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let mut done = 0;
        self.translate(address, into.len(), &Hint::default(), |slice| {
            slice.read(&mut into[done..done + slice.len()]);
            done += slice.len();
        })
    }

    /// Copies into guest memory; `false` if part of the range is not the guest's.
    pub fn write(&self, address: u64, from: &[u8]) -> bool {
        let mut done = 0;
        self.translate(address, from.len(), &Hint::default(), |slice| {
            slice.write(&from[done..done + slice.len()]);
            done += slice.len();
        })
    }

    /// Hands `each` the pieces of `address..address + len`, usually one; `false` if a part is not the guest's, in
    /// which case some pieces may have been handed out.
    pub(crate) fn translate<'m>(
        &'m self,
        mut address: u64,
        mut len: usize,
        hint: &Hint,
        mut each: impl FnMut(GuestSlice<'m>),
    ) -> bool {
        while len > 0 {
            let Some(region) = self.region_at(address, hint) else {
                return false;
            };
            let slice = region.slice_from(address).first(len);
            each(slice);
            len -= slice.len();
            if len > 0 {
                // A region ends at or below 2^64 - 1 (invariant 1), so its end is a valid address to ask for.
                address = region.guest.end;
            }
        }
        true
    }

    /// The usual case of [`translate`](GuestMemory::translate): one piece, not empty.
    #[inline]
    pub(crate) fn translate_whole(
        &self,
        address: u64,
        len: u32,
        hint: &Hint,
    ) -> Option<GuestSlice<'_>> {
        let region = self.region_at(address, hint)?;
        let is_inside = len > 0 && u64::from(len) <= region.guest.end - address;
        is_inside.then(|| region.slice(address - region.guest.start, len.into()))
    }

    /// One piece of exactly `len` bytes, for structures that must not be split: the rings.
    pub(crate) fn contiguous(&self, address: u64, len: usize) -> Option<GuestSlice<'_>> {
        let slice = self
            .region_at(address, &Hint::default())?
            .slice_from(address);
        (slice.len() >= len).then(|| slice.first(len))
    }

    /// Whether `other` is a clone of this snapshot.
    pub(crate) fn is_same(&self, other: &GuestMemory) -> bool {
        ptr::addr_eq(Arc::as_ptr(&self.regions), Arc::as_ptr(&other.regions))
    }

    #[inline]
    fn region_at(&self, address: u64, hint: &Hint) -> Option<&MappedRegion> {
        let region = |at: usize| {
            let region = self.regions.get(at)?;
            region.guest.contains(&address).then_some(region)
        };
        let [newer, older] = hint.0.get();
        region(newer)
            .or_else(|| region(older))
            .or_else(|| self.find_region(address, hint))
    }

    /// Searches all regions.
    #[cold]
    fn find_region(&self, address: u64, hint: &Hint) -> Option<&MappedRegion> {
        let at = self
            .regions
            .partition_point(|region| region.guest.end <= address);
        let region = self.regions.get(at)?;
        if !region.guest.contains(&address) {
            return None;
        }
        let [newer, _] = hint.0.get();
        hint.0.set([at, newer]);
        Some(region)
    }
}

impl fmt::Debug for GuestMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.regions.iter().map(|region| &region.guest);
        f.debug_list().entries(ranges).finish()
    }
}

impl MappedRegion {
    /// From `address`, which lies in the region, to the region's end.
    fn slice_from(&self, address: u64) -> GuestSlice<'_> {
        self.slice(address - self.guest.start, self.guest.end - address)
    }

    /// The `len` bytes from `offset`, which lie in the region.
    fn slice(&self, offset: u64, len: u64) -> GuestSlice<'_> {
        let number = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let start = self.mapping.start().wrapping_add(number(offset));
        // SAFETY: the mapping is as long as the region and lives as long as the snapshot, which is borrowed.
        unsafe { GuestSlice::new(start, number(len)) }
    }
}

fn checked_range(start: u64, size: u64, what: &str) -> Result<Range<u64>> {
    match start.checked_add(size) {
        Some(end) if size > 0 => Ok(start..end),
        _ => {
            let message = format!(
                "memory region of {size} bytes at {what} address {start:#x} is empty or wraps"
            );
            Err(Error::new(ErrorKind::InvalidArgument, message))
        }
    }
}
