//! What is done with and belongs to the home to drop: removed handlers, dropped timers, tenants that end.
//!
//! Their destructors are callbacks of the user. They run on the home, after the last call has returned. A home that ends does so
//! here, too.
#![forbid(unsafe_code)]

use super::attachment::Attachment;
use super::fd_handler::PollSwitch;
use super::fd_record::FdRecord;
use super::tenant::Tenant;
use super::timer::TimerNode;
use super::{Driving, Reactor, report};
use crate::Error;
use crate::panic_boundary::drop_guarded;
use crate::sync::{Ordering, lock};
use std::sync::Arc;

/// One thing that the home drops.
pub(crate) enum PendingRelease {
    Handler(Arc<FdRecord>),
    Timer(Arc<TimerNode>),
    Switch(Arc<Tenant>, Arc<PollSwitch>),
    /// A tenant that ends, and what its owner does before.
    Tenant(Arc<Tenant>, Box<dyn FnOnce() + Send>),
    /// An attachment of a tenant that has left.
    Attachment(Arc<Attachment>),
    /// Work for a time when no callback runs.
    BetweenTurns(Box<dyn FnOnce() + Send>),
    /// An error without a caller. The home logs it later, because locks may be held where it happened.
    Error(Error),
}

impl PendingRelease {
    /// True when it goes along with `tenant`, which moves. Errors do: any home may log them.
    fn goes_with(&self, tenant: &Arc<Tenant>) -> bool {
        match self {
            PendingRelease::Handler(record) => record.is_of(tenant),
            PendingRelease::Timer(timer) => Arc::ptr_eq(&timer.tenant, tenant),
            PendingRelease::Switch(owner, _) | PendingRelease::Tenant(owner, _) => {
                Arc::ptr_eq(owner, tenant)
            }
            PendingRelease::Attachment(_) | PendingRelease::BetweenTurns(_) => false,
            PendingRelease::Error(_) => true,
        }
    }

    /// Drops it. What must wait comes back.
    fn drop_on(self, home: &Driving<'_>) -> Option<PendingRelease> {
        match self {
            PendingRelease::Handler(record) => {
                home.forget_handler(&record);
                drop_guarded(&"destructor of an fd handler", record);
            }
            PendingRelease::Timer(timer) => drop_guarded(&"destructor of a timer", timer),
            PendingRelease::Switch(_, switch) => drop_guarded(&"destructor of a switch", switch),
            PendingRelease::Tenant(tenant, before) => {
                if tenant.is_in_call() {
                    return Some(PendingRelease::Tenant(tenant, before));
                }
                before();
                tenant.end_on(home);
            }
            PendingRelease::Attachment(attachment) => drop(attachment),
            PendingRelease::BetweenTurns(work) => {
                if home.is_nested() {
                    return Some(PendingRelease::BetweenTurns(work));
                }
                work();
            }
            PendingRelease::Error(error) => report([error]),
        }
        None
    }
}

impl Reactor {
    /// Queues values for the home to drop. An empty iterator wakes no thread.
    pub(super) fn release(&self, values: impl IntoIterator<Item = PendingRelease>) {
        let mut queue = lock(&self.released);
        let before = queue.len();
        queue.extend(values);
        let has_grown = queue.len() > before;
        drop(queue);
        if !has_grown {
            return;
        }
        self.has_released.store(true, Ordering::SeqCst);
        if !self.is_driven_here() {
            self.wake_if_sleeping();
        }
    }

    pub(super) fn has_releases(&self) -> bool {
        self.has_released.load(Ordering::SeqCst)
    }

    fn take_released(&self) -> Vec<PendingRelease> {
        self.has_released.store(false, Ordering::SeqCst);
        std::mem::take(&mut *lock(&self.released))
    }

    /// Lets the home drop what is queued. If there is no home, this thread does so.
    pub(crate) fn leave_to_home(&self) {
        if self.glib.is_elsewhere() {
            self.wake_if_sleeping();
        } else {
            self.reap_if_idle();
        }
    }

    /// Runs `work` on the home when no callback runs there. If there is no home, on this thread.
    #[doc(hidden)] // for the contexts of qcontext
    pub fn run_between_turns(&self, work: impl FnOnce() + Send + 'static) {
        self.release([PendingRelease::BetweenTurns(Box::new(work))]);
        self.leave_to_home();
    }

    /// Drops what is queued if no thread drives, or this one does.
    #[doc(hidden)] // for the contexts of qcontext
    pub fn reap_if_idle(&self) {
        if let Ok(driving) = self.drive() {
            driving.collect_ready();
            driving.drop_released();
        }
    }
}

impl Driving<'_> {
    /// Leaves what was released of `tenant` here to the home of `new`.
    pub(super) fn hand_over_releases(&self, tenant: &Arc<Tenant>, new: &Reactor) {
        let moving: Vec<_> = lock(&self.reactor.released)
            .extract_if(.., |one| one.goes_with(tenant))
            .collect();
        for one in &moving {
            if let PendingRelease::Handler(record) = one {
                self.forget_handler(record);
            }
        }
        new.release(moving);
    }

    /// Drops the home's own references to a handler.
    fn forget_handler(&self, record: &Arc<FdRecord>) {
        self.home().fd_cache.forget(record);
        self.remove_polled(record);
    }

    /// Drops what was released.
    #[inline]
    pub(super) fn drop_released(&self) {
        if self.reactor.has_releases() {
            self.drop_all_released();
        }
    }

    fn drop_all_released(&self) {
        let mut early = Vec::new();
        while self.reactor.has_releases() {
            let released = self.reactor.take_released();
            early.extend(released.into_iter().filter_map(|one| one.drop_on(self)));
        }
        self.reactor.release(early);
    }
}
