//! What an AioContext is made of, and the changes to it that must not miss one another: handlers come and go, the context
//! moves, and it ends.
//!
//! The invariants are those of [`super`].
#![allow(unsafe_code)] // the attachment pointer is read without a lock, so that a signal handler can

use super::bh::{self, node::BhNode};
use super::handler::{FdRecord, Switch};
use super::job::Jobs;
use super::task;
use crate::list::List;
use crate::panic_boundary;
use crate::reactor::{self, Attachment, Driving, PendingRelease, Reactor, Urgency, ask_again};
use crate::sync::lock;
use crate::sync::{AtomicPtr, AtomicUsize, Ordering};
use crate::sync::{Mutex, thread};
use crate::{Error, ErrorKind, Result};
use std::os::fd::RawFd;
use std::ptr;
use std::sync::{Arc, Weak};

/// Something in a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct Apart<T>(T);

/// What an AioContext is made of.
pub(crate) struct Core {
    /// Scheduled bottom halves; closed when the context is torn down.
    pub(crate) bhs: List<BhNode>,
    /// Calls of bottom halves and timers that have not returned; written by the home.
    pub(super) calls: Apart<AtomicUsize>,
    /// The current reactor, to compare with; null once torn down.
    pub(crate) home: AtomicPtr<Reactor>,
    /// The current attachment; null once torn down. See invariant 1.
    pub(super) attachment: AtomicPtr<Attachment>,
    pub(super) visitors: AtomicUsize,
    /// The owned attachments: the current one last.
    pub(super) attachments: Mutex<Vec<Arc<Attachment>>>,
    pub(super) handlers: Mutex<Vec<Arc<FdRecord>>>,
    pub(crate) jobs: Jobs,
    /// What the io_uring queues of this context count their requests with.
    pub(super) io_queues: Mutex<Vec<Weak<AtomicUsize>>>,
    /// How many tasks bind this context to their thread.
    pub(crate) tasks: AtomicUsize,
    /// The reactor to itself, used while not attached elsewhere.
    pub(super) private: Arc<Reactor>,
}

impl Core {
    /// Makes the reactor look at this context's bottom halves. Async-signal-safe.
    pub(crate) fn kick(&self, urgency: Urgency) {
        self.visit(|attachment| attachment.kick(urgency));
    }

    /// Calls `visit` with the current attachment, if there is one; it stays allocated meanwhile (invariant 1).
    pub(super) fn visit(&self, visit: impl FnOnce(&Attachment)) {
        self.visitors.fetch_add(1, Ordering::SeqCst);
        // SAFETY: invariant 1: `visitors` keeps what the pointer names allocated.
        if let Some(attachment) = unsafe { self.attachment.load(Ordering::SeqCst).as_ref() } {
            attachment.life.used();
            visit(attachment);
        }
        self.visitors.fetch_sub(1, Ordering::SeqCst);
    }

    /// True when somebody may be between loading the pointer and being done with it. A read-modify-write gives the question a
    /// place in the order of the visits: who visits later finds what the pointer is by now.
    fn is_visited(&self) -> bool {
        self.visitors.fetch_add(0, Ordering::SeqCst) > 0
    }

    /// Calls `change` with the current reactor until it says that the context was still there.
    pub(crate) fn on_reactor(&self, mut change: impl FnMut(&Reactor) -> bool) {
        let mut done = reactor::on_home(self, &mut change).unwrap_or(false);
        while !done {
            done = true;
            self.visit(|attachment| done = change(&attachment.reactor));
        }
    }

    /// True while `reactor` is the current one.
    pub(crate) fn is_on(&self, reactor: &Reactor) -> bool {
        ptr::eq(self.home.load(Ordering::Acquire), reactor)
    }

    /// Makes `attachment` the current one. The earlier ones that nobody visits are the caller's to drop, with no lock held.
    #[must_use]
    pub(super) fn bind(&self, attachment: Arc<Attachment>) -> Vec<Arc<Attachment>> {
        let mut attachments = lock(&self.attachments);
        self.attachment
            .store(Arc::as_ptr(&attachment).cast_mut(), Ordering::SeqCst);
        let home = Arc::as_ptr(&attachment.reactor).cast_mut();
        self.home.store(home, Ordering::Release);
        let mut earlier = std::mem::take(&mut *attachments);
        let is_visited = self.is_visited();
        // One that was kicked late stands on the list of a reactor that nobody may ever drive again: `end` sees to it.
        let kept = |place: &mut Arc<Attachment>| is_visited || Arc::strong_count(place) > 1;
        attachments.extend(earlier.extract_if(.., kept));
        attachments.push(attachment);
        drop(attachments);
        earlier
    }

    pub(super) fn set_handler(&self, record: Arc<FdRecord>, replace: bool) -> Result<()> {
        let mut handlers = lock(&self.handlers);
        let is_earlier = |other: &Arc<FdRecord>| other.is_handler_of(record.fd);
        let place = handlers.iter().position(is_earlier);
        if place.is_some() && !replace {
            let message = format!("fd {} has a handler already", record.fd);
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        let earlier = place.map(|index| Arc::clone(&handlers[index]));
        let mut added = Ok(());
        self.visit(|attachment| added = attachment.reactor.add_record(&record, earlier.as_deref()));
        added?;
        if let Some(index) = place {
            handlers.swap_remove(index);
        }
        handlers.push(record);
        let replaced = earlier.inspect(|earlier| earlier.mark_removed());
        let left = self.try_retire(replaced.into_iter().map(PendingRelease::Handler).collect());
        drop(handlers);
        panic_boundary::drop_guarded(&"destructor of a callback", left);
        Ok(())
    }

    /// Changes the switch of the handler of `fd`; false when there is none, and nothing was taken then.
    pub(super) fn set_switch(&self, fd: RawFd, switch: Option<Arc<Switch>>) -> bool {
        let handlers = lock(&self.handlers);
        let found = handlers.iter().find(|record| record.is_handler_of(fd));
        let Some(record) = found else { return false };
        let earlier = record.replace_switch(switch);
        let left = self.try_retire(earlier.into_iter().map(PendingRelease::Switch).collect());
        drop(handlers);
        panic_boundary::drop_guarded(&"destructor of a switch", left);
        true
    }

    /// Watches for a future, beside the handler of that fd.
    pub(crate) fn add_waiter(&self, record: Arc<FdRecord>) -> Result<()> {
        let mut handlers = lock(&self.handlers);
        let message = "the AioContext has been torn down";
        let mut added = Err(Error::new(ErrorKind::Closed, message));
        self.visit(|attachment| added = attachment.reactor.add_record(&record, None));
        if added.is_ok() {
            handlers.push(record);
        }
        drop(handlers);
        added
    }

    /// Takes the handler of `fd` out; false when there is none.
    pub(super) fn remove_fd(&self, fd: RawFd) -> bool {
        self.remove_handlers(|record| record.is_handler_of(fd))
    }

    /// Removes a handler whose callback panicked.
    pub(crate) fn remove_record(&self, record: &Arc<FdRecord>) {
        self.remove_handlers(|other| Arc::ptr_eq(other, record));
    }

    /// Removes the handlers that `chosen` names; true when there was one. All under the lock that a move takes, so that they
    /// leave the reactor that has them, and are left to its home.
    pub(super) fn remove_handlers(&self, mut chosen: impl FnMut(&Arc<FdRecord>) -> bool) -> bool {
        let mut handlers = lock(&self.handlers);
        let removed: Vec<_> = handlers.extract_if(.., |record| chosen(record)).collect();
        let found = !removed.is_empty();
        for record in &removed {
            record.mark_removed();
            self.visit(|attachment| attachment.reactor.remove_record(record));
        }
        let left = self.try_retire(removed.into_iter().map(PendingRelease::Handler).collect());
        drop(handlers);
        panic_boundary::drop_guarded(&"destructor of a callback", left);
        found
    }

    /// Gives `retired` to the home to drop; after the tear-down it comes back.
    pub(super) fn try_retire(&self, retired: Vec<PendingRelease>) -> Vec<PendingRelease> {
        let mut left = retired;
        self.visit(|attachment| attachment.reactor.retire(std::mem::take(&mut left)));
        left
    }

    /// Gives `retired` to the home to drop; after the tear-down it is dropped here.
    pub(crate) fn retire(&self, retired: PendingRelease) {
        // Under the lock that a move takes, so that it is not left to a reactor that is being left.
        let handlers = lock(&self.handlers);
        let left = self.try_retire(vec![retired]);
        drop(handlers);
        panic_boundary::drop_guarded(&"destructor of a callback", left);
    }

    /// Moves everything from `old` to `new`. The caller is allowed to by invariant 1, which is checked here.
    pub(super) fn move_to(self: &Arc<Self>, old: &Arc<Reactor>, new: &Arc<Reactor>) -> Result<()> {
        let driving = old.drive()?;
        if self.tasks.load(Ordering::SeqCst) > 0 {
            let message = "the AioContext has tasks, which are bound to their thread; end them before it moves";
            return Err(Error::new(ErrorKind::Busy, message));
        }
        let requests = self.unfinished_io(old, &driving);
        if requests > 0 {
            let message = format!(
                "{requests} io_uring requests of the AioContext are in flight, whose ends come where they were submitted; wait for them before it moves"
            );
            return Err(Error::new(ErrorKind::Busy, message));
        }
        // Its new home could call the same callback again before this call has returned.
        if self.is_in_call() || lock(&self.handlers).iter().any(|record| record.is_called()) {
            let message =
                "a callback of the AioContext is running; it moves when that has returned";
            return Err(Error::new(ErrorKind::Busy, message));
        }
        new.open()?;
        for record in self.polled_handlers() {
            if old.release(&record, &driving) {
                let ask = Box::new(move || ask_again(&record));
                bh::schedule_oneshot(self, "last question of busy-polling", ask);
            } else {
                panic_boundary::drop_guarded(&"destructor of an fd handler", record);
            }
        }
        let handlers = lock(&self.handlers);
        for record in handlers.iter() {
            old.remove_record(record);
            record.set_paused(false);
        }
        let closed = match new.adopt_records(&handlers) {
            Ok(closed) => closed,
            Err(error) => {
                let trouble = old.readopt_records(&handlers);
                old.retire(trouble.into_iter().map(PendingRelease::Trouble));
                return Err(error);
            }
        };
        let unseen = old.forget(self, &handlers, &driving);
        old.hand_over_bhs(self, &driving);
        let mut earlier = Vec::new();
        let rebind = || earlier = self.bind(Attachment::new(self, new));
        Reactor::move_timers(old, new, self, rebind);
        drop(handlers);
        // The caller may hold any lock, so what is left to destroy and to tell is left to the next home.
        let is_removed = |record: &Arc<FdRecord>| record.is_removed();
        // Collected here, so that the others are not dropped under the lock that `retire` takes.
        let removed: Vec<_> = unseen.into_iter().filter(is_removed).collect();
        new.retire(removed.into_iter().map(PendingRelease::Handler));
        new.retire(closed.into_iter().map(PendingRelease::Trouble));
        old.hand_over_retired(self, new, &driving);
        // What was kicked there is held by that list, and nobody may ever drive it again.
        old.take_kicked(&driving);
        drop(driving);
        drop(earlier);
        self.kick(Urgency::Now);
        Ok(())
    }

    /// Remembers an io_uring queue of this context by its counter.
    pub(crate) fn note_io_queue(&self, in_flight: &Arc<AtomicUsize>) {
        let mut queues = lock(&self.io_queues);
        queues.retain(|queue| queue.strong_count() > 0);
        queues.push(Arc::downgrade(in_flight));
    }

    /// How many io_uring requests of this context are unfinished on `reactor`.
    fn unfinished_io(&self, reactor: &Reactor, driving: &Driving<'_>) -> usize {
        let live: Vec<_> = lock(&self.io_queues)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let unfinished = |queue| reactor.unfinished_io(driving, queue);
        live.iter().map(unfinished).sum()
    }

    pub(super) fn polled_handlers(&self) -> Vec<Arc<FdRecord>> {
        let mut polled = Vec::new();
        polled.extend(
            lock(&self.handlers)
                .iter()
                .filter(|record| record.handler.io_poll.is_some())
                .cloned(),
        );
        polled
    }

    /// Removes the handlers, and leaves the rest to the home, or to this thread if nobody drives.
    pub(super) fn tear_down(self: &Arc<Self>) {
        self.remove_handlers(|_| true);
        let mut reactor = None;
        self.visit(|attachment| reactor = Some(Arc::clone(&attachment.reactor)));
        if let Some(reactor) = reactor {
            reactor.retire([PendingRelease::Context(Arc::clone(self))]);
            reactor.leave_to_home();
        }
        self.private.leave_to_home();
    }

    /// True when this context has `reactor` to itself.
    pub(crate) fn is_private(&self, reactor: &Reactor) -> bool {
        ptr::eq(Arc::as_ptr(&self.private), reactor)
    }

    /// Makes a call of a bottom half or timer, during which the context neither ends nor moves.
    #[inline]
    pub(crate) fn during_call<T>(&self, call: impl FnOnce() -> T) -> T {
        let calls = self.calls.0.load(Ordering::Relaxed);
        self.calls.0.store(calls + 1, Ordering::Relaxed);
        let outcome = call();
        self.calls.0.store(calls, Ordering::Relaxed);
        outcome
    }

    /// True during such a call. On the home thread.
    pub(crate) fn is_in_call(&self) -> bool {
        self.calls.0.load(Ordering::Relaxed) > 0
    }

    /// The end of a context whose last handle is gone, on the thread that drives `reactor`, the current one.
    pub(crate) fn end(self: Arc<Self>, reactor: &Reactor, driving: &Driving<'_>) {
        task::end_all(&self);
        self.attachment.store(ptr::null_mut(), Ordering::SeqCst);
        self.home.store(ptr::null_mut(), Ordering::Release);
        // A handle that raced with the last clone is done with the attachment in a few instructions.
        while self.is_visited() {
            thread::yield_now();
        }
        reactor.drop_timers(&self);
        reactor.release_bhs(&self, driving);
        self.jobs.abandon();
        // What such a handle has kicked holds the attachment.
        reactor.collect_ready(driving);
        let attachments = std::mem::take(&mut *lock(&self.attachments));
        for attachment in attachments {
            // What one has kicked elsewhere, after this context had left, holds it and through it that reactor.
            if !ptr::eq(Arc::as_ptr(&attachment.reactor), reactor) {
                let left = Arc::clone(&attachment.reactor);
                left.retire([PendingRelease::Attachment(attachment)]);
                left.leave_to_home();
            }
        }
    }
}

#[cfg(all(test, loom))]
mod model;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
