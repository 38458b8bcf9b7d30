//! The memory map: which addresses are memory, and which of them are reserved.
#![forbid(unsafe_code)]

use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::layout::{ACPI, HIGH_RAM, LOW_RAM_END};

/// The type of a range. E820 and the PVH protocol use the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum MemoryKind {
    Ram = 1,
    Reserved = 2,
}

/// One entry of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemoryMapEntry {
    pub(super) start: u64,
    pub(super) length: u64,
    pub(super) kind: MemoryKind,
}

/// The end of the memory that starts at 0.
pub(super) fn low_end(memory: &GuestMemoryMmap) -> u64 {
    let mut end = 0;
    for region in memory.iter() {
        if region.start_addr().raw_value() == end {
            end += region.len();
        }
    }
    end
}

/// The map of a machine whose memory starts at 0.
pub(super) fn new(memory: &GuestMemoryMmap) -> Vec<MemoryMapEntry> {
    let low = low_end(memory);
    let mut map = vec![
        entry(0, LOW_RAM_END, MemoryKind::Ram),
        entry(LOW_RAM_END, 0xa_0000, MemoryKind::Reserved),
        entry(ACPI, HIGH_RAM, MemoryKind::Reserved),
    ];
    if low > HIGH_RAM {
        map.push(entry(HIGH_RAM, low, MemoryKind::Ram));
    }
    for region in memory.iter() {
        let start = region.start_addr().raw_value();
        if start >= low {
            map.push(entry(start, start + region.len(), MemoryKind::Ram));
        }
    }
    map
}

fn entry(start: u64, end: u64, kind: MemoryKind) -> MemoryMapEntry {
    MemoryMapEntry {
        start,
        length: end - start,
        kind,
    }
}
