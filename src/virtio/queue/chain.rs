//! A descriptor chain as spans of our address space, and the walk that makes one.
//!
//! Used by [`super::Virtqueue::pop`]. Every descriptor is copied exactly once and judged by the copy.
#![forbid(unsafe_code)]

use super::ring::Ring;
use super::{Broken, Descriptor};
use crate::virtio::memory::{GuestMemory, Hint, Span};

/// The most descriptors in one chain, indirect ones included.
pub(crate) const CHAIN_MAX: u32 = 1024;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// One request of the guest: what the device reads, followed by what it writes. Reused from request to request.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    head: u16,
    spans: Vec<Span>,
    readable: usize,
}

impl Chain {
    /// Its identity in the used ring.
    pub(crate) fn head(&self) -> u16 {
        self.head
    }

    /// What the device may read.
    pub(crate) fn readable(&self) -> &[Span] {
        &self.spans[..self.readable]
    }

    /// What the device may write.
    pub(crate) fn writable(&self) -> &[Span] {
        &self.spans[self.readable..]
    }
}

/// What a walk needs to know of the queue.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    pub(super) ring: &'a Ring,
    pub(super) memory: &'a GuestMemory,
    pub(super) hint: &'a Hint,
    pub(super) size: u16,
    pub(super) indirect: bool,
}

impl Walk<'_> {
    /// Follows the chain from `head` and leaves it in `chain`.
    pub(super) fn walk(&self, head: u16, chain: &mut Chain) -> Result<(), Broken> {
        chain.head = head;
        chain.spans.clear();
        chain.readable = 0;
        let mut index = head;
        for _ in 0..self.size {
            let descriptor = self
                .ring
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
    fn walk_table(&self, table: Descriptor, chain: &mut Chain) -> Result<(), Broken> {
        if !self.indirect || table.flags & NEXT != 0 {
            return Err(Broken("indirect descriptor where none is allowed"));
        }
        if table.len == 0 || !table.len.is_multiple_of(16) {
            return Err(Broken("indirect table is not made of descriptors"));
        }
        let entries = table.len / 16;
        let mut index = 0;
        for _ in 0..entries.min(CHAIN_MAX) {
            let descriptor = self.table_entry(table.address, index)?;
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

    fn table_entry(&self, table: u64, index: u32) -> Result<Descriptor, Broken> {
        let mut bytes = [0; 16];
        let mut done = 0;
        let found = table
            .checked_add(16 * u64::from(index))
            .is_some_and(|address| {
                self.memory.translate(address, 16, self.hint, |span| {
                    span.read(&mut bytes[done..done + span.len]);
                    done += span.len;
                })
            });
        if found {
            Ok(Descriptor::from_bytes(bytes))
        } else {
            Err(Broken("indirect table outside of the guest's memory"))
        }
    }

    fn append(&self, descriptor: Descriptor, chain: &mut Chain) -> Result<(), Broken> {
        let writable = descriptor.flags & WRITE != 0;
        if !writable && chain.spans.len() > chain.readable {
            return Err(Broken("readable descriptor after a writable one"));
        }
        let len = usize::try_from(descriptor.len).map_err(|_| Broken("descriptor too long"))?;
        let spans = &mut chain.spans;
        if !self
            .memory
            .translate(descriptor.address, len, self.hint, |span| spans.push(span))
        {
            return Err(Broken("buffer outside of the guest's memory"));
        }
        if !writable {
            chain.readable = chain.spans.len();
        }
        Ok(())
    }
}
