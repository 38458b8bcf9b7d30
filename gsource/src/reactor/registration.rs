//! The fd handlers of a reactor: added, removed, and taken over when a tenant moves.
#![forbid(unsafe_code)]

use super::fd_record::FdRecord;
use super::fd_table::{Batch, FdTable};
use super::tenant::Tenant;
use super::{Driving, Reactor};
use crate::sync::{Ordering, lock};
use crate::{Error, Result};
use std::sync::Arc;

impl Reactor {
    /// Adds `record`, in place of `earlier` on the same fd. Both or nothing.
    pub(super) fn add_record(
        &self,
        record: &Arc<FdRecord>,
        earlier: Option<&FdRecord>,
    ) -> Result<()> {
        self.change_fds(|fds| {
            fds.add(record)?;
            if let Some(earlier) = earlier {
                fds.remove(earlier);
            }
            Ok(())
        })?;
        self.wake_for_always_ready();
        Ok(())
    }

    /// No event announces an fd that is always ready.
    fn wake_for_always_ready(&self) {
        if self.has_always_ready() && !self.is_driven_here() {
            self.notify();
        }
    }

    /// Takes over all of `records` or none. The answer is the errors of fds that were closed under their handlers.
    pub(super) fn adopt_records(&self, records: &[Arc<FdRecord>]) -> Result<Vec<Error>> {
        let closed = self.change_fds(|fds| {
            let mut closed = Vec::new();
            for (index, record) in records.iter().enumerate() {
                if let Err(error) = fds.adopt(record, &mut closed) {
                    for added in &records[..index] {
                        fds.remove(added);
                    }
                    return Err(error);
                }
            }
            Ok(closed)
        })?;
        self.wake_for_always_ready();
        Ok(closed)
    }

    /// Takes back the records that another reactor refused, as far as the kernel lets it. The answer is its errors.
    pub(super) fn readopt_records(&self, records: &[Arc<FdRecord>]) -> Vec<Error> {
        let errors = self.change_fds(|fds| {
            let mut errors = Vec::new();
            for record in records {
                let outcome = fds.adopt(record, &mut errors);
                errors.extend(outcome.err());
            }
            errors
        });
        self.wake_for_always_ready();
        errors
    }

    pub(super) fn remove_record(&self, record: &FdRecord) {
        self.change_fds(|fds| fds.remove(record));
    }

    /// Changes the fd table, and updates the counts.
    pub(super) fn change_fds<T>(&self, change: impl FnOnce(&mut FdTable) -> T) -> T {
        let mut fds = lock(&self.table);
        let before = fds.version();
        let changed = change(&mut fds);
        self.count_fds(&fds);
        let has_new_list = fds.version() != before;
        drop(fds);
        // A home that waits with poll(2) has a copy of the list.
        if has_new_list && !self.is_driven_here() {
            self.wake_if_sleeping();
        }
        changed
    }

    pub(super) fn count_fds(&self, fds: &FdTable) {
        self.counts
            .always_ready
            .store(fds.always_ready(), Ordering::Release);
        self.counts
            .unpollable
            .store(fds.unpollable(), Ordering::Release);
    }
}

impl Driving<'_> {
    /// Forgets the handlers of `tenant`, which moves with `records`. The answer is what the home had of its handlers. Some of
    /// them may have been removed; the caller drops them without a lock.
    #[must_use]
    pub(super) fn forget_handlers(
        &self,
        tenant: &Arc<Tenant>,
        records: &[Arc<FdRecord>],
    ) -> Vec<Arc<FdRecord>> {
        let mut home = self.home();
        let (ready, staying): (Batch, Batch) = std::mem::take(&mut home.batch)
            .into_iter()
            .partition(|(record, _)| record.is_of(tenant));
        home.batch = staying;
        let paused = home.paused.extract_if(.., |record| record.is_of(tenant));
        let leaving = paused
            .chain(ready.into_iter().map(|(record, _)| record))
            .collect();
        for record in records {
            home.fd_cache.forget(record);
        }
        leaving
    }
}
