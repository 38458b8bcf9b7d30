//! What is done with and belongs to the home to drop: removed handlers, dropped timers, contexts without a handle.
#![forbid(unsafe_code)]

use super::fd_handler::PollSwitch;
use super::fd_record::FdRecord;
use super::tenant::Tenant;
use super::timer::TimerNode;
use super::{Attachment, Driving, Reactor, report};
use crate::Error;
use crate::panic_boundary;
use crate::sync::Ordering;
use crate::sync::lock;
use std::sync::Arc;

/// Something whose destructor belongs to the home thread.
pub(crate) enum PendingRelease {
    Handler(Arc<FdRecord>),
    Timer(Arc<TimerNode>),
    Switch(Arc<Tenant>, Arc<PollSwitch>),
    /// A tenant that ends, and what its owner does before.
    Tenant(Arc<Tenant>, Box<dyn FnOnce() + Send>),
    /// An earlier attachment of a tenant here.
    Attachment(Arc<Attachment>),
    /// An error without a caller. The home logs it later, because locks may be held where it happened.
    Error(Error),
}

impl PendingRelease {
    /// True when it goes along with `tenant`, which moves. An error may be logged anywhere, so it goes where a thread drives.
    fn goes_with(&self, tenant: &Arc<Tenant>) -> bool {
        match self {
            PendingRelease::Handler(record) => record.is_of(tenant),
            PendingRelease::Timer(timer) => Arc::ptr_eq(&timer.tenant, tenant),
            PendingRelease::Switch(owner, _) | PendingRelease::Tenant(owner, _) => {
                Arc::ptr_eq(owner, tenant)
            }
            PendingRelease::Attachment(_) => false,
            PendingRelease::Error(_) => true,
        }
    }

    /// Drops it. What must wait comes back.
    fn drop_here(self, reactor: &Reactor, driving: &Driving<'_>) -> Option<PendingRelease> {
        match self {
            PendingRelease::Handler(record) => {
                reactor.lose_sight_of(&record, driving);
                panic_boundary::drop_guarded(&"destructor of an fd handler", record);
            }
            PendingRelease::Timer(timer) => {
                panic_boundary::drop_guarded(&"destructor of a timer", timer);
            }
            PendingRelease::Switch(_, switch) => {
                panic_boundary::drop_guarded(&"destructor of a switch", switch);
            }
            PendingRelease::Tenant(tenant, before) if tenant.is_in_call() => {
                return Some(PendingRelease::Tenant(tenant, before));
            }
            PendingRelease::Tenant(tenant, before) => {
                before();
                tenant.end_here(reactor, driving);
            }
            PendingRelease::Attachment(attachment) => drop(attachment),
            PendingRelease::Error(error) => report([error]),
        }
        None
    }
}

impl Reactor {
    /// Leaves `retired` to the home to drop; nothing retired disturbs nobody.
    pub(crate) fn release(&self, retired: impl IntoIterator<Item = PendingRelease>) {
        let mut queue = lock(&self.retired);
        let before = queue.len();
        queue.extend(retired);
        let grown = queue.len() > before;
        drop(queue);
        if !grown {
            return;
        }
        self.has_retired.store(true, Ordering::SeqCst);
        if !self.is_driven_here() {
            self.rouse();
        }
    }

    /// Leaves what was released of `tenant` here to the home of `new`.
    pub(crate) fn hand_over_releases(
        &self,
        tenant: &Arc<Tenant>,
        new: &Reactor,
        driving: &Driving<'_>,
    ) {
        let moving: Vec<_> = lock(&self.retired)
            .extract_if(.., |one| one.goes_with(tenant))
            .collect();
        for one in &moving {
            if let PendingRelease::Handler(record) = one {
                self.lose_sight_of(record, driving);
            }
        }
        new.release(moving);
    }

    /// Lets go of the home's own references to a handler.
    fn lose_sight_of(&self, record: &Arc<FdRecord>, driving: &Driving<'_>) {
        self.home.get(driving).fd_cache.forget(record);
        self.expel(record, driving);
    }

    fn take_retired(&self) -> Vec<PendingRelease> {
        self.has_retired.store(false, Ordering::SeqCst);
        std::mem::take(&mut *lock(&self.retired))
    }

    pub(crate) fn has_retired(&self) -> bool {
        self.has_retired.load(Ordering::SeqCst)
    }

    /// Lets the home drop what is left behind here; this thread does so if there is no other.
    pub(crate) fn leave_to_home(&self) {
        if self.thread_pin.wait_elsewhere() {
            self.rouse();
        } else {
            self.reap_if_idle();
        }
    }

    /// Drops what is left behind here if nobody, or this thread, drives.
    pub fn reap_if_idle(&self) {
        if let Ok(driving) = self.drive() {
            self.collect_ready(&driving);
            self.reap(&driving);
        }
    }

    /// Drops what was retired.
    #[inline]
    pub(super) fn reap(&self, driving: &Driving<'_>) {
        if self.has_retired() {
            self.reap_all(driving);
        }
    }

    fn reap_all(&self, driving: &Driving<'_>) {
        let mut early = Vec::new();
        while self.has_retired() {
            let retired = self.take_retired();
            early.extend(
                retired
                    .into_iter()
                    .filter_map(|retired| retired.drop_here(self, driving)),
            );
        }
        self.release(early);
    }
}
