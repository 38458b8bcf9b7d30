//! What an AioContext is made of: its tenant on a reactor, and what the reactor does not know of.
#![forbid(unsafe_code)]

use super::job::Jobs;
use super::leftovers::Leftovers;
use super::task;
use crate::reactor::tenant::Tenant;
use crate::reactor::{Driving, Reactor};
use crate::sync::{AtomicUsize, Mutex, lock};
use crate::{Error, ErrorKind, Result};
use std::sync::{Arc, Weak};

/// What an AioContext is made of.
pub(crate) struct Core {
    pub(crate) tenant: Arc<Tenant>,
    pub(super) jobs: Jobs,
    pub(super) leftovers: Leftovers,
    /// What the io_uring queues of this context count their requests with.
    io_queues: Mutex<Vec<Weak<AtomicUsize>>>,
    /// The reactor that this context has to itself, used while it is not attached elsewhere.
    pub(super) private: Arc<Reactor>,
}

impl Core {
    pub(super) fn new(private: Arc<Reactor>) -> Arc<Core> {
        Arc::new(Core {
            tenant: Tenant::new(&private),
            jobs: Jobs::default(),
            leftovers: Leftovers::default(),
            io_queues: Mutex::default(),
            private,
        })
    }

    /// Moves from `old` to `new`.
    ///
    /// # Errors
    /// `Busy` while requests are in the ring of `old`; as for [`Tenant::move_to`]. The context stays where it was then.
    pub(super) fn move_to(&self, old: &Arc<Reactor>, new: &Arc<Reactor>) -> Result<()> {
        let driving = old.drive()?;
        let requests = self.unfinished_io(&driving);
        if requests > 0 {
            let message = format!(
                "{requests} io_uring requests of the AioContext are in flight, whose ends come where they were submitted; wait for them before it moves"
            );
            return Err(Error::new(ErrorKind::Busy, message));
        }
        self.tenant.move_to(driving, new)
    }

    /// Remembers an io_uring queue of this context by its counter.
    pub(super) fn note_io_queue(&self, in_flight: &Arc<AtomicUsize>) {
        let mut queues = lock(&self.io_queues);
        queues.retain(|queue| queue.strong_count() > 0);
        queues.push(Arc::downgrade(in_flight));
    }

    /// How many io_uring requests of this context are unfinished on its home.
    fn unfinished_io(&self, home: &Driving<'_>) -> usize {
        let live: Vec<_> = lock(&self.io_queues)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let unfinished = |queue| home.unfinished_io(queue);
        live.iter().map(unfinished).sum()
    }

    /// Removes the handlers, and leaves the rest to the home, or to this thread if no thread drives. The tasks go first, because
    /// what they drop may cancel jobs.
    pub(super) fn tear_down(self: &Arc<Self>) {
        self.tenant.remove_handlers(|_| true);
        let core = Arc::clone(self);
        self.tenant.end(Box::new(move || {
            task::end_all(&core.tenant);
            core.jobs.abandon();
            core.leftovers.give_up();
        }));
        self.private.leave_to_home();
    }
}

#[cfg(all(test, loom))]
mod model;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
