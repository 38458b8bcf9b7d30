//! A descriptor chain as slices of guest memory, and the walk that makes one.
//!
//! Used by [`super::Virtqueue::pop`]. Every descriptor is copied exactly once and judged by the copy.
#![forbid(unsafe_code)]

use super::areas::Areas;
use super::{Broken, RingDescriptor};
use crate::virtio::memory::{GuestMemory, GuestSlice, Hint};

/// The most descriptors in one chain, indirect ones included.
pub(crate) const CHAIN_MAX: u32 = 1024;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// One request of the guest: what the device reads, followed by what it writes.
///
/// It borrows the guest's memory, so a device cannot keep it; see `Answers::keep`. The same one is filled again and again
/// during a batch.
#[derive(Debug)]
pub struct Chain<'m> {
    memory: &'m GuestMemory,
    head: u16,
    slices: Vec<GuestSlice<'m>>,
    readable: usize,
    /// How many bytes are writable.
    writable_len: u64,
}

/// The room of a chain between batches: an empty vector that keeps its allocation.
#[derive(Debug, Default)]
pub(crate) struct ChainRoom(Vec<GuestSlice<'static>>);

impl<'m> Chain<'m> {
    /// An empty chain, to be filled from `memory`.
    pub(crate) fn new(memory: &'m GuestMemory, room: ChainRoom) -> Chain<'m> {
        Chain {
            memory,
            head: 0,
            slices: emptied(room.0),
            readable: 0,
            writable_len: 0,
        }
    }

    pub(crate) fn into_room(self) -> ChainRoom {
        ChainRoom(emptied(self.slices))
    }

    /// The memory that its slices lie in.
    pub(crate) fn memory(&self) -> &'m GuestMemory {
        self.memory
    }

    /// Its identity in the used ring.
    pub(crate) fn head(&self) -> u16 {
        self.head
    }

    /// What the device may read.
    pub fn readable(&self) -> &[GuestSlice<'m>] {
        &self.slices[..self.readable]
    }

    /// What the device may write.
    pub fn writable(&self) -> &[GuestSlice<'m>] {
        &self.slices[self.readable..]
    }

    /// How many bytes the device may write.
    pub fn writable_len(&self) -> u64 {
        self.writable_len
    }
}

/// The same allocation for slices of another lifetime: std collects in place.
fn emptied<'to>(mut slices: Vec<GuestSlice<'_>>) -> Vec<GuestSlice<'to>> {
    slices.clear();
    slices.into_iter().map_while(|_| None).collect()
}

/// What a walk needs to know of the queue.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    pub(super) areas: &'a Areas,
    pub(super) hint: &'a Hint,
    pub(super) size: u16,
    pub(super) indirect: bool,
}

impl Walk<'_> {
    /// Follows the chain from `head` and leaves it in `chain`.
    pub(super) fn walk(&self, head: u16, chain: &mut Chain<'_>) -> Result<(), Broken> {
        chain.head = head;
        chain.slices.clear();
        chain.readable = 0;
        chain.writable_len = 0;
        let mut index = head;
        for _ in 0..self.size {
            let descriptor = self
                .areas
                .descriptor(index)
                .ok_or(Broken("descriptor index out of range"))?;
            if descriptor.flags & INDIRECT != 0 {
                return self.walk_table(descriptor, chain);
            }
            self.append(descriptor, chain)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next;
        }
        Err(Broken("descriptor chain is a loop"))
    }

    /// Follows the chain inside an indirect table, which ends the chain outside.
    fn walk_table(&self, table: RingDescriptor, chain: &mut Chain<'_>) -> Result<(), Broken> {
        if !self.indirect || table.flags & NEXT != 0 {
            return Err(Broken("indirect descriptor where none is allowed"));
        }
        if table.len == 0 || !table.len.is_multiple_of(16) {
            return Err(Broken("indirect table is not made of descriptors"));
        }
        let entries = table.len / 16;
        let mut index = 0;
        for _ in 0..entries.min(CHAIN_MAX) {
            let descriptor = self.table_entry(chain.memory, table.address, index)?;
            if descriptor.flags & INDIRECT != 0 {
                return Err(Broken("indirect table in an indirect table"));
            }
            self.append(descriptor, chain)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(());
            }
            index = u32::from(descriptor.next);
            if index >= entries {
                return Err(Broken("descriptor index beyond the indirect table"));
            }
        }
        Err(Broken("indirect chain is a loop or too long"))
    }

    fn table_entry(
        &self,
        memory: &GuestMemory,
        table: u64,
        index: u32,
    ) -> Result<RingDescriptor, Broken> {
        let mut bytes = [0; 16];
        let mut done = 0;
        let found = table
            .checked_add(16 * u64::from(index))
            .is_some_and(|address| {
                memory.translate(address, 16, self.hint, |slice| {
                    slice.read(&mut bytes[done..done + slice.len()]);
                    done += slice.len();
                })
            });
        if found {
            Ok(RingDescriptor::from_bytes(bytes))
        } else {
            Err(Broken("indirect table outside of the guest's memory"))
        }
    }

    fn append(&self, descriptor: RingDescriptor, chain: &mut Chain<'_>) -> Result<(), Broken> {
        let writable = descriptor.flags & WRITE != 0;
        if !writable && chain.slices.len() > chain.readable {
            return Err(Broken("readable descriptor after a writable one"));
        }
        let RingDescriptor { address, len, .. } = descriptor;
        match chain.memory.translate_whole(address, len, self.hint) {
            Some(slice) => chain.slices.push(slice),
            None => self.append_pieces(address, len, chain)?,
        }
        if writable {
            chain.writable_len += u64::from(len);
        } else {
            chain.readable = chain.slices.len();
        }
        Ok(())
    }

    /// A buffer that may lie in several regions, or be empty.
    #[cold]
    fn append_pieces(&self, address: u64, len: u32, chain: &mut Chain<'_>) -> Result<(), Broken> {
        let len = usize::try_from(len).map_err(|_| Broken("descriptor too long"))?;
        let slices = &mut chain.slices;
        let is_inside = chain
            .memory
            .translate(address, len, self.hint, |slice| slices.push(slice));
        match is_inside {
            true => Ok(()),
            false => Err(Broken("buffer outside of the guest's memory")),
        }
    }
}
