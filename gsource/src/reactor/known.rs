//! What the home remembers of the fd table: the one handler of an fd, found without the table's lock.
//!
//! # Invariants
//! 1. A handler stands here only under the token with which its fd was registered while it was the only one. Whenever
//!    another handler joins, the fd is registered anew under another token, so what stands here is never incomplete.
//! 2. A handler leaves before it is dropped: when it is reaped, or when its context moves.
#![forbid(unsafe_code)]

use super::fd_table::split;
use crate::aio::handler::FdRecord;
use std::sync::Arc;

/// Handlers by fd, with the generation of their registration.
#[derive(Default)]
pub(super) struct Known(Vec<Option<(u32, Arc<FdRecord>)>>);

impl Known {
    /// The handler that `token` stands for.
    pub(super) fn find(&self, token: u64) -> Option<&Arc<FdRecord>> {
        let [fd, generation] = split(token);
        match self.0.get(fd as usize)? {
            Some((known, record)) if *known == generation => Some(record),
            _ => None,
        }
    }

    /// Remembers the only handler of `token`'s fd.
    pub(super) fn learn(&mut self, token: u64, record: Arc<FdRecord>) {
        let [fd, generation] = split(token);
        let index = fd as usize;
        if self.0.len() <= index {
            self.0.resize_with(index + 1, || None);
        }
        self.0[index] = Some((generation, record));
    }

    /// Forgets a handler.
    pub(super) fn forget(&mut self, record: &Arc<FdRecord>) {
        let place = usize::try_from(record.fd)
            .ok()
            .and_then(|fd| self.0.get_mut(fd));
        if let Some(place) = place
            && place
                .as_ref()
                .is_some_and(|(_, known)| Arc::ptr_eq(known, record))
        {
            *place = None;
        }
    }
}
