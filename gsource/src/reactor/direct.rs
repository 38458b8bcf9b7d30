//! What the thread that drives may ask of a reactor besides a whole turn: the bottom halves of one context, and how long a turn
//! would wait.
#![forbid(unsafe_code)]

use super::tenant::Tenant;
use super::turn::IDLE_BH_NS;
use super::{Driving, Reactor};
use crate::Result;
use std::sync::Arc;

impl Reactor {
    /// Runs the bottom halves of `tenant` and nothing else; true when one that is not idle ran.
    ///
    /// # Errors
    /// `WrongThread` while another thread drives.
    pub(crate) fn run_bhs_of(&self, tenant: &Arc<Tenant>) -> Result<bool> {
        let driving = self.drive()?;
        self.collect_ready(&driving);
        Ok(self.run_due_of(tenant, &driving))
    }

    /// How long a turn would wait now, in nanoseconds; `None` when only an event would end it. A notification does not count.
    ///
    /// # Errors
    /// `WrongThread` while another thread drives.
    pub(crate) fn bound_ns(&self) -> Result<Option<i64>> {
        let driving = self.drive()?;
        self.collect_ready(&driving);
        if self.has_something_ready(&driving) {
            return Ok(Some(0));
        }
        let idle = self.bhs.has_scheduled(&driving).then_some(IDLE_BH_NS);
        Ok(idle.into_iter().chain(self.remaining_ns()).min())
    }

    fn has_something_ready(&self, driving: &Driving<'_>) -> bool {
        !self.home.get(driving).batch.is_empty()
            || self.bhs.has_due(driving)
            || self.has_always_ready()
            || self.has_ready_io(driving)
    }
}
