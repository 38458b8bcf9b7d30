//! The memory map: which addresses are memory, and which of it is taken.
#![forbid(unsafe_code)]

use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::layout::{ACPI, HIGH_RAM, LOW_RAM_END};

/// What a piece of the address space is; the numbers are those of BIOS function E820 and of the PVH protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum MemoryKind {
    Ram = 1,
    Reserved = 2,
}

/// One entry of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemoryPiece {
    pub(super) start: u64,
    pub(super) length: u64,
    pub(super) kind: MemoryKind,
}

/// Where the memory that begins at 0 ends.
pub(super) fn low_end(memory: &GuestMemoryMmap) -> u64 {
    let mut end = 0;
    for region in memory.iter() {
        if region.start_addr().raw_value() == end {
            end += region.len();
        }
    }
    end
}

/// The map of a machine whose memory begins at 0.
pub(super) fn new(memory: &GuestMemoryMmap) -> Vec<MemoryPiece> {
    let low = low_end(memory);
    let mut map = vec![
        piece(0, LOW_RAM_END, MemoryKind::Ram),
        piece(LOW_RAM_END, 0xa_0000, MemoryKind::Reserved),
        piece(ACPI, HIGH_RAM, MemoryKind::Reserved),
    ];
    if low > HIGH_RAM {
        map.push(piece(HIGH_RAM, low, MemoryKind::Ram));
    }
    for region in memory.iter() {
        let start = region.start_addr().raw_value();
        if start >= low {
            map.push(piece(start, start + region.len(), MemoryKind::Ram));
        }
    }
    map
}

fn piece(start: u64, end: u64, kind: MemoryKind) -> MemoryPiece {
    MemoryPiece {
        start,
        length: end - start,
        kind,
    }
}
