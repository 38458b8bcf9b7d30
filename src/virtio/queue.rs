//! The device's side of a split virtqueue.
//!
//! Used by [`super::worker`]. One batch looks like this:
//!
//! ```text
//! disable_notifications
//! loop { pop -> Chain, serve it, push_used }        nothing is visible to the guest yet
//! publish -> does the guest want to be called?      one store, one question
//! enable_notifications -> has more come meanwhile?  then once more
//! ```
//!
//! * `areas`: the three areas of the ring in guest memory
//! * `chain`: a descriptor chain, and the walk that makes one
//!
//! # Threads
//! A queue is used by one thread at a time, `&mut`; only the guest changes the ring at the same time.
//!
//! # Invariants
//! 1. The ring pointers stay valid because the areas hold the memory snapshot they were translated with.
//! 2. Barriers: the used index is stored with Release, and a full fence separates that store from the question whether the
//!    guest wants a call. Another full fence separates allowing kicks from looking at the available index again. The guest
//!    does the same with the roles exchanged, so at least one side sees the other's store.
//! 3. At most `size` chains are out at a time, whatever the guest does to its index.
//! 4. After an answer of [`Broken`] nothing more is popped.
#![deny(unsafe_code)] // children that need it say why

use std::sync::atomic::{Ordering, fence};

use super::memory::{GuestMemory, Hint, fault};
use super::{F_EVENT_IDX, F_INDIRECT_DESC, QueueSetup};
use crate::{Error, ErrorKind, Result};

mod areas;
mod chain;
#[cfg(test)]
mod tests;

use areas::Areas;
pub use chain::Chain;
pub(crate) use chain::ChainRoom;
use chain::Walk;

/// The largest queue that the specification allows.
pub(crate) const SIZE_MAX: u16 = 32768;

/// Why a queue stopped for good: what the guest did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(pub(crate) &'static str);

impl Broken {
    /// The guest broke the queue like that.
    pub fn new(reason: &'static str) -> Broken {
        Broken(reason)
    }

    /// What the guest did, in words.
    pub fn reason(self) -> &'static str {
        self.0
    }
}

/// A copied descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingDescriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

/// What [`Virtqueue::pop`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Popped {
    /// A chain.
    Chain,
    /// Nothing new.
    Empty,
    /// As many chains are out as the ring has entries; finish some first.
    Full,
}

/// A running split virtqueue.
#[derive(Debug)]
pub(crate) struct Virtqueue {
    areas: Areas,
    hint: Hint,
    size: u16,
    event_idx: bool,
    indirect: bool,
    next_avail: u16,
    /// The guest's index when we last looked.
    avail_seen: u16,
    next_used: u16,
    /// The used index that the guest sees.
    published: u16,
    out: u16,
    faults_seen: usize,
}

impl RingDescriptor {
    fn from_words([address, rest]: [u64; 2]) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_ne_bytes());
        bytes[8..].copy_from_slice(&rest.to_ne_bytes());
        Self::from_bytes(bytes)
    }

    fn from_bytes(b: [u8; 16]) -> Self {
        RingDescriptor {
            address: u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
            len: u32::from_le_bytes([b[8], b[9], b[10], b[11]]),
            flags: u16::from_le_bytes([b[12], b[13]]),
            next: u16::from_le_bytes([b[14], b[15]]),
        }
    }
}

impl Virtqueue {
    /// Translates and checks the rings.
    ///
    /// # Errors
    /// `InvalidArgument` if size, alignment or place of the rings is wrong.
    pub(crate) fn new(setup: &QueueSetup) -> Result<Virtqueue> {
        if !setup.size.is_power_of_two() || setup.size > SIZE_MAX {
            let message = format!(
                "queue size {} is not a power of two up to {SIZE_MAX}",
                setup.size
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let addresses = [setup.descriptors, setup.available, setup.used];
        let areas = Areas::new(&setup.memory, setup.size, addresses)?;
        let used = areas.used_index();
        Ok(Virtqueue {
            areas,
            hint: Hint::default(),
            size: setup.size,
            event_idx: setup.features & F_EVENT_IDX != 0,
            indirect: setup.features & F_INDIRECT_DESC != 0,
            next_avail: setup.next_avail,
            avail_seen: setup.next_avail,
            next_used: used,
            published: used,
            out: 0,
            faults_seen: fault::faults(),
        })
    }

    /// The guest's memory that the queue lies in.
    pub(crate) fn memory(&self) -> &GuestMemory {
        self.areas.memory()
    }

    /// The number of descriptors.
    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    /// The available index of the next chain.
    pub(crate) fn next_avail(&self) -> u16 {
        self.next_avail
    }

    /// How many chains were popped and not finished.
    pub(crate) fn in_flight(&self) -> u16 {
        self.out
    }

    /// Asks once per batch whether the peer took the memory away.
    pub(crate) fn check_memory(&mut self) -> Result<(), Broken> {
        let faults = fault::faults();
        if faults == self.faults_seen {
            return Ok(());
        }
        self.faults_seen = faults;
        if self.memory().is_poisoned() {
            return Err(Broken("the memory file was truncated"));
        }
        Ok(())
    }

    /// Whether the guest has made something available. For adaptive polling: one load.
    pub(crate) fn has_available(&self) -> bool {
        self.areas.avail_index() != self.next_avail
    }

    /// Takes the next chain.
    #[inline]
    pub(crate) fn pop(&mut self, chain: &mut Chain<'_>) -> Result<Popped, Broken> {
        if self.avail_seen == self.next_avail && !self.look()? {
            return Ok(Popped::Empty);
        }
        if self.out == self.size {
            return Ok(Popped::Full);
        }
        let head = self.areas.avail_head(self.next_avail);
        self.next_avail = self.next_avail.wrapping_add(1);
        let walk = Walk {
            areas: &self.areas,
            hint: &self.hint,
            size: self.size,
            indirect: self.indirect,
        };
        walk.walk(head, chain)?;
        self.out += 1;
        Ok(Popped::Chain)
    }

    /// Reads the guest's index; whether it moved.
    fn look(&mut self) -> Result<bool, Broken> {
        let index = self.areas.avail_index();
        if index.wrapping_sub(self.next_avail) > self.size {
            return Err(Broken("available index jumped by more than the queue size"));
        }
        self.avail_seen = index;
        Ok(index != self.next_avail)
    }

    /// Gives a chain back; the guest sees it after [`publish`](Self::publish).
    pub(crate) fn push_used(&mut self, head: u16, len: u32) {
        self.areas.write_used(self.next_used, head, len);
        self.next_used = self.next_used.wrapping_add(1);
        self.out = self.out.saturating_sub(1);
    }

    /// Whether chains have been given back that the guest does not see yet.
    pub(crate) fn has_finished(&self) -> bool {
        self.published != self.next_used
    }

    /// Shows all finished chains with one store; whether the guest wants to be called for them.
    pub(crate) fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.next_used);
        if old == new {
            return false;
        }
        self.areas.publish_used(new);
        self.published = new;
        // Invariant 2: pairs with the guest's barrier between its used_event or flags and its look at the index.
        fence(Ordering::SeqCst);
        if self.event_idx {
            event_passed(self.areas.used_event(), new, old)
        } else {
            !self.areas.interrupts_unwanted()
        }
    }

    /// Asks the guest not to kick while we are looking anyway. A hint: kicks may still come.
    pub(crate) fn disable_notifications(&self) {
        if !self.event_idx {
            self.areas.set_kicks_unwanted(true);
        }
    }

    /// Asks for a kick at the next chain; `true` if one has come meanwhile and must be taken without a kick.
    pub(crate) fn enable_notifications(&self) -> bool {
        if self.event_idx {
            self.areas.set_avail_event(self.next_avail);
        } else {
            self.areas.set_kicks_unwanted(false);
        }
        // Invariant 2: pairs with the guest's barrier between its index and its look at avail_event or flags.
        fence(Ordering::SeqCst);
        self.has_available()
    }
}

/// Whether `event` lies among the indices `old..new`, all modulo 2^16.
fn event_passed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
