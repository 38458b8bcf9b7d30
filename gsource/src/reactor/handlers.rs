//! The fd handlers of a tenant: set, replaced and removed by any thread.
//!
//! Every change holds the lock of the tenant's records, which a move holds too. So a change reaches the reactor that the tenant
//! is on, and what it leaves to be dropped goes there as well.
#![forbid(unsafe_code)]

use super::PendingRelease;
use super::fd_handler::PollSwitch;
use super::fd_record::FdRecord;
use super::tenant::{Tenant, closed};
use crate::panic_boundary;
use crate::sync::lock;
use crate::{Error, ErrorKind, Result};
use std::os::fd::RawFd;
use std::sync::Arc;

/// What to do when the fd has a handler already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfPresent {
    Replace,
    Refuse,
}

impl Tenant {
    /// Sets the handler of an fd.
    ///
    /// # Errors
    /// `AlreadyExists` if it must not replace an earlier one; the kernel's, when it cannot watch the fd.
    pub(crate) fn set_handler(&self, record: Arc<FdRecord>, if_present: IfPresent) -> Result<()> {
        let mut records = lock(&self.records);
        let is_earlier = |other: &Arc<FdRecord>| other.is_handler_of(record.fd);
        let place = records.iter().position(is_earlier);
        if place.is_some() && if_present == IfPresent::Refuse {
            let message = format!("fd {} has a handler already", record.fd);
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        let earlier = place.map(|index| Arc::clone(&records[index]));
        let mut added = Ok(());
        self.visit(|attachment| added = attachment.reactor.add_record(&record, earlier.as_deref()));
        added?;
        if let Some(index) = place {
            records.swap_remove(index);
        }
        records.push(record);
        let replaced = earlier.inspect(|earlier| earlier.mark_removed());
        let left = self.try_release(replaced.into_iter().map(PendingRelease::Handler).collect());
        drop(records);
        panic_boundary::drop_guarded(&"destructor of a callback", left);
        Ok(())
    }

    /// Changes the polling switch of the handler of `fd`. Without a handler the answer is false, and nothing was taken.
    pub(crate) fn set_switch(self: &Arc<Self>, fd: RawFd, switch: Option<Arc<PollSwitch>>) -> bool {
        let records = lock(&self.records);
        let found = records.iter().find(|record| record.is_handler_of(fd));
        let Some(record) = found else { return false };
        let earlier = record.replace_switch(switch);
        let owned = |replaced| PendingRelease::Switch(Arc::clone(self), replaced);
        let released = earlier.map(owned);
        let left = self.try_release(released.into_iter().collect());
        drop(records);
        panic_boundary::drop_guarded(&"destructor of a switch", left);
        true
    }

    /// Watches an fd for a future, beside the handler of that fd.
    ///
    /// # Errors
    /// `Closed` after the end; the kernel's, when it cannot watch the fd.
    pub(crate) fn add_waiter(&self, record: Arc<FdRecord>) -> Result<()> {
        let mut records = lock(&self.records);
        let mut added = Err(closed());
        self.visit(|attachment| added = attachment.reactor.add_record(&record, None));
        if added.is_ok() {
            records.push(record);
        }
        drop(records);
        added
    }

    /// Removes one handler.
    pub(crate) fn remove_record(&self, record: &Arc<FdRecord>) {
        self.remove_handlers(|other| Arc::ptr_eq(other, record));
    }

    /// Removes the handlers that `chosen` names; true when there was one. The home drops them.
    pub(crate) fn remove_handlers(&self, mut chosen: impl FnMut(&Arc<FdRecord>) -> bool) -> bool {
        let mut records = lock(&self.records);
        let removed: Vec<_> = records.extract_if(.., |record| chosen(record)).collect();
        let found = !removed.is_empty();
        for record in &removed {
            record.mark_removed();
            self.visit(|attachment| attachment.reactor.remove_record(record));
        }
        let left = self.try_release(removed.into_iter().map(PendingRelease::Handler).collect());
        drop(records);
        panic_boundary::drop_guarded(&"destructor of a callback", left);
        found
    }

    pub(crate) fn handlers(&self) -> usize {
        lock(&self.records).len()
    }
}
