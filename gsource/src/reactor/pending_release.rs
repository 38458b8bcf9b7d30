//! What is done with and belongs to the home to drop: removed handlers, dropped timers, contexts without a handle.
#![forbid(unsafe_code)]

use super::{Attachment, Driving, Reactor, report};
use crate::Error;
use crate::aio::Core;
use crate::aio::handler::{FdRecord, Switch};
use crate::aio::timer::TimerNode;
use crate::panic_boundary;
use crate::sync::Ordering;
use crate::sync::lock;
use std::sync::Arc;

/// Something whose destructor belongs to the home thread.
pub(crate) enum PendingRelease {
    Handler(Arc<FdRecord>),
    Timer(Arc<TimerNode>),
    Switch(Arc<Switch>),
    /// A context whose last handle is gone.
    Context(Arc<Core>),
    /// A context's earlier place here.
    Attachment(Arc<Attachment>),
    /// An error that had nobody to return to, and must not be told of where it happened.
    Trouble(Error),
}

impl PendingRelease {
    /// True when it is of `core`; what is of nobody goes with whoever has the reactor to itself.
    fn goes_with(&self, core: &Arc<Core>, reactor: &Reactor) -> bool {
        match self {
            PendingRelease::Handler(record) => record.is_of(core),
            PendingRelease::Timer(timer) => Arc::ptr_eq(&timer.core, core),
            PendingRelease::Context(other) => Arc::ptr_eq(other, core),
            PendingRelease::Attachment(_) => false,
            PendingRelease::Switch(_) | PendingRelease::Trouble(_) => core.is_private(reactor),
        }
    }

    /// Drops it; gives it back when it is too early.
    fn reap(self, reactor: &Reactor, driving: &Driving<'_>) -> Option<PendingRelease> {
        match self {
            PendingRelease::Handler(record) => {
                reactor.lose_sight_of(&record, driving);
                panic_boundary::drop_guarded(&"destructor of an fd handler", record);
            }
            PendingRelease::Timer(timer) => {
                panic_boundary::drop_guarded(&"destructor of a timer", timer);
            }
            PendingRelease::Switch(switch) => {
                panic_boundary::drop_guarded(&"destructor of a switch", switch);
            }
            PendingRelease::Context(core) if core.is_in_call() => {
                return Some(PendingRelease::Context(core));
            }
            PendingRelease::Context(core) => core.end(reactor, driving),
            PendingRelease::Attachment(attachment) => drop(attachment),
            PendingRelease::Trouble(error) => report([error]),
        }
        None
    }
}

impl Reactor {
    /// Leaves `retired` to the home to drop; nothing retired disturbs nobody.
    pub(crate) fn retire(&self, retired: impl IntoIterator<Item = PendingRelease>) {
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

    /// Leaves what was retired of `core` here to the home of `new`.
    pub(crate) fn hand_over_retired(&self, core: &Arc<Core>, new: &Reactor, driving: &Driving<'_>) {
        let moving: Vec<_> = lock(&self.retired)
            .extract_if(.., |one| one.goes_with(core, self))
            .collect();
        for one in &moving {
            if let PendingRelease::Handler(record) = one {
                self.lose_sight_of(record, driving);
            }
        }
        new.retire(moving);
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
                    .filter_map(|retired| retired.reap(self, driving)),
            );
        }
        self.retire(early);
    }
}
