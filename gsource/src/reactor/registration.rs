//! The handlers of a reactor's contexts: added, removed, and taken over when a context moves.
#![forbid(unsafe_code)]

use super::Driving;
use super::Reactor;
use super::fd_record::FdRecord;
use super::fd_table::{Batch, FdTable};
use super::tenant::Tenant;
use crate::sync::Ordering;
use crate::sync::lock;
use crate::{Error, Result};
use std::sync::Arc;

impl Reactor {
    /// Adds `record`, in place of `earlier` on the same fd; both or nothing.
    pub(crate) fn add_record(
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
        self.look_at_always_ready();
        Ok(())
    }

    /// No event announces an fd that is always ready.
    fn look_at_always_ready(&self) {
        if self.has_always_ready() && !self.is_driven_here() {
            self.notify();
        }
    }

    /// Takes over all of `records` or none; what it answers is to be told of.
    pub(crate) fn adopt_records(&self, records: &[Arc<FdRecord>]) -> Result<Vec<Error>> {
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
        self.look_at_always_ready();
        Ok(closed)
    }

    /// Takes back what another reactor did not want, as far as the kernel lets it; what it answers is to be told of.
    pub(crate) fn readopt_records(&self, records: &[Arc<FdRecord>]) -> Vec<Error> {
        let trouble = self.change_fds(|fds| {
            let mut trouble = Vec::new();
            for record in records {
                let outcome = fds.adopt(record, &mut trouble);
                trouble.extend(outcome.err());
            }
            trouble
        });
        self.look_at_always_ready();
        trouble
    }

    pub(crate) fn remove_record(&self, record: &FdRecord) {
        self.change_fds(|fds| fds.remove(record));
    }

    /// Changes the fd table and counts again what a turn must know of it.
    pub(super) fn change_fds<T>(&self, change: impl FnOnce(&mut FdTable) -> T) -> T {
        let mut fds = lock(&self.fds);
        let before = fds.version();
        let changed = change(&mut fds);
        self.count_fds(&fds);
        let is_news = fds.version() != before;
        drop(fds);
        // A home that waits for a list has it copied.
        if is_news && !self.is_driven_here() {
            self.rouse();
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

    /// Lets go of `tenant`, which is moving elsewhere with `records`. The answer is what was seen of its handlers, some of which
    /// may have been removed: to be dropped without a lock.
    #[must_use]
    pub(crate) fn forget(
        &self,
        tenant: &Arc<Tenant>,
        records: &[Arc<FdRecord>],
        driving: &Driving<'_>,
    ) -> Vec<Arc<FdRecord>> {
        let mut home = self.home.get(driving);
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
