//! The handler of an fd, found by the token of an event without the lock of the fd table.
//!
//! # Invariants
//! 1. A handler is cached only under the token with which its fd was registered while it was the only one. When another handler
//!    joins, the fd is registered anew under another token. So what is cached for a token is all handlers of the fd.
//! 2. A handler that was taken for an event counts as cached.
//! 3. A handler leaves the cache before it is dropped: when it is released, or when its tenant moves.
#![forbid(unsafe_code)]

use super::fd_record::FdRecord;
use super::fd_table::split;
use std::os::fd::RawFd;
use std::sync::Arc;

/// Handlers by fd.
#[derive(Default)]
pub(super) struct FdCache(Vec<CachedFd>);

#[derive(Default)]
enum CachedFd {
    #[default]
    Empty,
    /// The handler, with the generation of its registration.
    Here(u32, Arc<FdRecord>),
    /// Taken for an event: the generation, and the handler's address.
    Taken(u32, usize),
}

impl FdCache {
    /// Takes the handler that `token` stands for, until [`FdCache::put`].
    pub(super) fn get(&mut self, token: u64) -> Option<Arc<FdRecord>> {
        let [fd, generation] = split(token);
        let cached = self.0.get_mut(fd as usize)?;
        if !matches!(cached, CachedFd::Here(known, _) if *known == generation) {
            return None;
        }
        match std::mem::take(cached) {
            CachedFd::Here(_, record) => {
                *cached = CachedFd::Taken(generation, Arc::as_ptr(&record).addr());
                Some(record)
            }
            CachedFd::Empty | CachedFd::Taken(..) => None,
        }
    }

    /// Puts a handler back, if it was taken and not forgotten since. If not, it comes back for the caller to drop.
    pub(super) fn put(&mut self, record: Arc<FdRecord>) -> Option<Arc<FdRecord>> {
        match self.cached(record.fd) {
            Some(cached @ CachedFd::Taken(..)) if cached.is_of(&record) => {
                if let CachedFd::Taken(generation, _) = *cached {
                    *cached = CachedFd::Here(generation, record);
                }
                None
            }
            _ => Some(record),
        }
    }

    /// Caches the only handler of `token`'s fd.
    pub(super) fn insert(&mut self, token: u64, record: Arc<FdRecord>) {
        let [fd, generation] = split(token);
        let index = fd as usize;
        if self.0.len() <= index {
            self.0.resize_with(index + 1, CachedFd::default);
        }
        self.0[index] = CachedFd::Here(generation, record);
    }

    /// Forgets a handler.
    pub(super) fn forget(&mut self, record: &Arc<FdRecord>) {
        if let Some(cached) = self.cached(record.fd)
            && cached.is_of(record)
        {
            *cached = CachedFd::Empty;
        }
    }

    fn cached(&mut self, fd: RawFd) -> Option<&mut CachedFd> {
        let index = usize::try_from(fd).ok()?;
        self.0.get_mut(index)
    }
}

impl CachedFd {
    fn is_of(&self, record: &Arc<FdRecord>) -> bool {
        match self {
            CachedFd::Empty => false,
            CachedFd::Here(_, known) => Arc::ptr_eq(known, record),
            // A handler is forgotten before it is dropped, so no other one has this address.
            CachedFd::Taken(_, address) => *address == Arc::as_ptr(record).addr(),
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
        let mut cache = FdCache::default();
        cache.insert(TOKEN, Arc::clone(record));
        cache
    }

    #[test]
    fn a_handler_is_taken_for_one_event_of_its_registration() {
        let own = record();
        let mut cache = with(&own);
        assert!(cache.get(LATER).is_none());
        let taken = cache.get(TOKEN).unwrap();
        assert!(cache.get(TOKEN).is_none());
        assert!(cache.put(taken).is_none());
        assert!(cache.get(TOKEN).is_some());
    }

    #[test]
    fn a_handler_forgotten_while_it_is_taken_does_not_come_back() {
        let own = record();
        let mut cache = with(&own);
        let taken = cache.get(TOKEN).unwrap();
        cache.forget(&own);
        assert!(cache.put(taken).is_some());
        assert!(cache.get(TOKEN).is_none());
    }

    #[test]
    fn what_was_inserted_meanwhile_stays() {
        let (own, other) = (record(), record());
        let mut cache = with(&own);
        let taken = cache.get(TOKEN).unwrap();
        cache.forget(&other);
        cache.insert(LATER, Arc::clone(&other));
        assert!(cache.put(taken).is_some());
        assert!(Arc::ptr_eq(&cache.get(LATER).unwrap(), &other));
    }
}
