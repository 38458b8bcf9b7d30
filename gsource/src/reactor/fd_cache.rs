//! What the home remembers of the fd table: the one handler of an fd, found without the table's lock.
//!
//! # Invariants
//! 1. A handler stands here only under the token with which its fd was registered while it was the only one. Whenever
//!    another handler joins, the fd is registered anew under another token, so what stands here is never incomplete.
//! 2. A handler that is lent to the batch counts as standing here.
//! 3. A handler leaves before it is dropped: when it is reaped, or when its context moves.
#![forbid(unsafe_code)]

use super::fd_table::split;
use crate::reactor::fd_record::FdRecord;
use std::os::fd::RawFd;
use std::sync::Arc;

/// Handlers by fd.
#[derive(Default)]
pub(super) struct FdCache(Vec<Place>);

#[derive(Default)]
enum Place {
    #[default]
    Empty,
    /// The handler, with the generation of its registration.
    Here(u32, Arc<FdRecord>),
    /// Lent to the batch: the generation, and the handler's address.
    Lent(u32, usize),
}

impl FdCache {
    /// Lends the handler that `token` stands for, until [`FdCache::give_back`].
    pub(super) fn lend(&mut self, token: u64) -> Option<Arc<FdRecord>> {
        let [fd, generation] = split(token);
        let place = self.0.get_mut(fd as usize)?;
        if !matches!(place, Place::Here(known, _) if *known == generation) {
            return None;
        }
        match std::mem::take(place) {
            Place::Here(_, record) => {
                *place = Place::Lent(generation, Arc::as_ptr(&record).addr());
                Some(record)
            }
            Place::Empty | Place::Lent(..) => None,
        }
    }

    /// Takes a handler back if it was lent and not forgotten since; else it is the caller's to drop.
    pub(super) fn give_back(&mut self, record: Arc<FdRecord>) -> Option<Arc<FdRecord>> {
        match self.place(record.fd) {
            Some(place @ Place::Lent(..)) if place.is_of(&record) => {
                if let Place::Lent(generation, _) = *place {
                    *place = Place::Here(generation, record);
                }
                None
            }
            _ => Some(record),
        }
    }

    /// Remembers the only handler of `token`'s fd.
    pub(super) fn learn(&mut self, token: u64, record: Arc<FdRecord>) {
        let [fd, generation] = split(token);
        let index = fd as usize;
        if self.0.len() <= index {
            self.0.resize_with(index + 1, Place::default);
        }
        self.0[index] = Place::Here(generation, record);
    }

    /// Forgets a handler.
    pub(super) fn forget(&mut self, record: &Arc<FdRecord>) {
        if let Some(place) = self.place(record.fd)
            && place.is_of(record)
        {
            *place = Place::Empty;
        }
    }

    fn place(&mut self, fd: RawFd) -> Option<&mut Place> {
        let index = usize::try_from(fd).ok()?;
        self.0.get_mut(index)
    }
}

impl Place {
    fn is_of(&self, record: &Arc<FdRecord>) -> bool {
        match self {
            Place::Empty => false,
            Place::Here(_, known) => Arc::ptr_eq(known, record),
            // Its context forgets a handler before it drops it, so the address is not another one's.
            Place::Lent(_, address) => *address == Arc::as_ptr(record).addr(),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::FdCache;
    use crate::FdHandler;
    use crate::reactor::fd_record::FdRecord;
    use std::sync::{Arc, Weak};

    const TOKEN: u64 = 7 << 32 | 3;
    const LATER: u64 = 8 << 32 | 3;

    fn record() -> Arc<FdRecord> {
        Arc::new(FdRecord::new(3, FdHandler::new(), Weak::new()))
    }

    fn with(record: &Arc<FdRecord>) -> FdCache {
        let mut known = FdCache::default();
        known.learn(TOKEN, Arc::clone(record));
        known
    }

    #[test]
    fn a_handler_is_lent_to_one_event_of_its_registration() {
        let own = record();
        let mut known = with(&own);
        assert!(known.lend(LATER).is_none());
        let lent = known.lend(TOKEN).unwrap();
        assert!(known.lend(TOKEN).is_none());
        assert!(known.give_back(lent).is_none());
        assert!(known.lend(TOKEN).is_some());
    }

    #[test]
    fn a_handler_forgotten_while_it_is_lent_does_not_come_back() {
        let own = record();
        let mut known = with(&own);
        let lent = known.lend(TOKEN).unwrap();
        known.forget(&own);
        assert!(known.give_back(lent).is_some());
        assert!(known.lend(TOKEN).is_none());
    }

    #[test]
    fn what_was_learned_meanwhile_stays() {
        let (own, other) = (record(), record());
        let mut known = with(&own);
        let lent = known.lend(TOKEN).unwrap();
        known.forget(&other);
        known.learn(LATER, Arc::clone(&other));
        assert!(known.give_back(lent).is_some());
        assert!(Arc::ptr_eq(&known.lend(LATER).unwrap(), &other));
    }
}
