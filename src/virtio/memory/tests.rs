//! Guest memory over real memfds: bounds, odd sizes, lifetimes and truncation by the peer.
#![allow(unsafe_code)] // memfd_create and ftruncate, playing the peer

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::*;

fn memfd(size: i64) -> OwnedFd {
    // SAFETY: creates a new fd.
    let fd = unsafe { libc::memfd_create(c"guest".as_ptr(), 0) };
    // SAFETY: just created, and ours from here on.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the fd is ours.
    assert_eq!(unsafe { libc::ftruncate(fd.as_raw_fd(), size) }, 0);
    fd
}

fn region(guest_addr: u64, size: u64, offset: u64) -> MemoryRegion {
    MemoryRegion {
        guest_addr,
        size,
        user_addr: guest_addr.wrapping_add(0x7000_0000_0000),
        fd: memfd(i64::try_from(offset + size).unwrap()),
        offset,
    }
}

#[test]
fn odd_sizes_and_offsets_work() {
    let memory = GuestMemory::new()
        .with_region(region(0x1000, 0x780, 0))
        .unwrap()
        .with_region(region(0x8010, 0x123, 0x1801))
        .unwrap();
    assert!(memory.write(0x8010, &[7; 0x123]));
    assert!(memory.write(0x177f, &[9]));
    let mut back = [0; 0x123];
    assert!(memory.read(0x8010, &mut back));
    assert_eq!(back, [7; 0x123]);
    assert_eq!(memory.region_count(), 2);
}

#[test]
fn every_byte_outside_is_refused() {
    let memory = GuestMemory::new()
        .with_region(region(0x1000, 0x780, 0))
        .unwrap();
    let cases: [(u64, usize); 7] = [
        (0xfff, 1),
        (0xfff, 2),
        (0x1780, 1),
        (0x1000, 0x781),
        (0x177f, 2),
        (u64::MAX, 2),
        (u64::MAX - 1, 0x1000),
    ];
    for (address, len) in cases {
        assert!(
            !memory.read(address, &mut vec![0; len]),
            "{address:#x}+{len}"
        );
        assert!(memory.contiguous(address, len).is_none());
    }
    assert!(memory.read(u64::MAX, &mut []));
}

#[test]
fn buffers_may_cross_adjacent_regions_but_rings_may_not() {
    let memory = GuestMemory::new()
        .with_region(region(0x2000, 0x1000, 0))
        .unwrap()
        .with_region(region(0x1000, 0x1000, 0))
        .unwrap();
    assert!(memory.write(0x1ffe, &[1, 2, 3, 4]));
    let mut back = [0; 4];
    assert!(memory.read(0x1ffe, &mut back));
    assert_eq!(back, [1, 2, 3, 4]);
    assert!(memory.contiguous(0x1ffe, 4).is_none());
    assert!(memory.contiguous(0x1ffe, 2).is_some());
}

/// Where each byte of a range is in this process, if all of it is the guest's: looked up byte by byte.
fn host_addresses(memory: &GuestMemory, address: u64, len: usize) -> Option<Vec<usize>> {
    let bytes = (0..len as u64).map(|at| {
        let at = address.checked_add(at)?;
        let region = memory
            .regions
            .iter()
            .find(|region| region.guest.contains(&at))?;
        let offset = usize::try_from(at - region.guest.start).unwrap();
        Some(region.mapping.start().addr() + offset)
    });
    bytes.collect()
}

#[test]
fn every_small_range_is_translated_as_byte_by_byte() {
    let regions = [(0x10, 4), (0x14, 3), (0x1a, 2), (u64::MAX - 3, 3)];
    let memory = regions
        .into_iter()
        .fold(GuestMemory::new(), |memory, (start, size)| {
            memory.with_region(region(start, size, 0)).unwrap()
        });
    let starts = (0..0x20).chain(u64::MAX - 8..=u64::MAX);
    for (address, len, last) in starts.flat_map(|address| {
        (0..14).flat_map(move |len| {
            let lasts = (0..=regions.len()).flat_map(|newer| [0, 3].map(|older| [newer, older]));
            lasts.map(move |last| (address, len, last))
        })
    }) {
        let expected = host_addresses(&memory, address, len);
        let hint = Hint(Cell::new(last));
        let addresses = |slice: GuestSlice<'_>| {
            let start = slice.as_ptr().addr();
            start..start + slice.len()
        };
        if let Some(slice) = memory.translate_whole(address, u32::try_from(len).unwrap(), &hint) {
            assert_eq!(
                Some(addresses(slice).collect()),
                expected,
                "{address:#x}+{len}"
            );
        }
        let mut found = Vec::new();
        let is_inside = memory.translate(address, len, &hint, |slice| {
            found.extend(addresses(slice));
        });
        assert_eq!(is_inside.then_some(found), expected, "{address:#x}+{len}");
    }
}

#[test]
fn bad_regions_are_refused() {
    let memory = GuestMemory::new()
        .with_region(region(0x1000, 0x1000, 0))
        .unwrap();
    assert!(memory.with_region(region(0x1fff, 0x10, 0)).is_err());
    assert!(memory.with_region(region(0x800, 0x801, 0)).is_err());
    assert!(memory.with_region(region(0x9000, 0, 0)).is_err());
    let mut wrapping = region(0x3000, 0x1000, 0);
    wrapping.guest_addr = u64::MAX - 0x10;
    assert!(memory.with_region(wrapping).is_err());
    let mut beyond = region(0x3000, 0x1000, 0);
    beyond.size = 0x1001;
    let error = memory.with_region(beyond).unwrap_err();
    assert!(error.to_string().contains("beyond the end"), "{error}");
    let mut far = region(0x3000, 0x1000, 0);
    far.offset = u64::MAX;
    assert!(memory.with_region(far).is_err());
}

#[test]
fn regions_are_removed_by_their_exact_values() {
    let memory = GuestMemory::new()
        .with_region(region(0x1000, 0x1000, 0))
        .unwrap();
    assert!(memory.without_region(0x1000, 0x800, 0).is_err());
    assert_eq!(memory.user_to_guest(0x7000_0000_1010), Some(0x1010));
    assert_eq!(memory.user_to_guest(0x7000_0000_2000), None);
    let empty = memory
        .without_region(0x1000, 0x1000, 0x7000_0000_1000)
        .unwrap();
    assert_eq!(empty.region_count(), 0);
    assert!(memory.write(0x1000, &[1]), "the old snapshot still works");
}

#[test]
fn truncated_file_poisons_only_its_mapping() {
    let victim = region(0x10_0000, 0x4000, 0);
    let peer = victim.fd.try_clone().unwrap();
    let memory = GuestMemory::new()
        .with_region(region(0x1000, 0x1000, 0))
        .unwrap();
    let other = memory.clone();
    let memory = memory.with_region(victim).unwrap();
    assert!(memory.write(0x10_0000, &[5; 0x4000]));
    let before = fault::faults();
    // SAFETY: the fd is ours; the peer shrinks its file.
    assert_eq!(unsafe { libc::ftruncate(peer.as_raw_fd(), 0x1000) }, 0);
    let mut back = [1; 0x4000];
    assert!(memory.read(0x10_0000, &mut back));
    assert_eq!((back[0xfff], back[0x1000], back[0x3fff]), (5, 0, 0));
    assert!(memory.is_poisoned() && fault::faults() > before);
    assert!(!other.is_poisoned());
}
