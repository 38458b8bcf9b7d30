//! The end of a context: who tears it down, and who waits for that.
//!
//! A threaded context is torn down by its own thread. An unthreaded one is torn down by the thread that asks for it, if no other
//! thread iterates the context. Otherwise the thread that iterates does so between two turns. Either needs both rights: to the
//! GMainContext and to the reactor. So no callback of the context runs meanwhile, and none runs afterwards.
//!
//! A thread that has iterated may not come back. So the thread that waits for the end looks at times whether it has both rights.
#![forbid(unsafe_code)]

use super::invoke::{WaitGuard, wait_for};
use super::run::Running;
use super::{ContextCore, MAIN, QContext, lock};
use crate::{AioContext, Error, ErrorKind, Result};
use gsource::Driving;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often a thread that waits for the end of an unthreaded context looks whether another thread still iterates it.
const LOOK: Duration = Duration::from_millis(10);

/// Whether a context has ended.
#[derive(Default)]
pub(super) struct ContextEnd {
    is_over: Mutex<bool>,
    changed: Condvar,
}

impl ContextEnd {
    fn is_over(&self) -> bool {
        *lock(&self.is_over)
    }

    fn announce(&self) {
        *lock(&self.is_over) = true;
        self.changed.notify_all();
    }

    /// Waits for the end, for a short time. True when it has come.
    fn wait(&self) -> bool {
        let goes_on = |is_over: &mut bool| !*is_over;
        let ended = self
            .changed
            .wait_timeout_while(lock(&self.is_over), LOOK, goes_on);
        *ended.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl QContext {
    /// Stops the context and waits until its thread has ended. A running callback is finished, pending work is dropped, and
    /// what is attached is detached. An unthreaded context is torn down by the thread that iterates it, if there is one, and
    /// this waits for it. Idempotent.
    ///
    /// # Errors
    /// `WouldDeadlock` on the context's own thread, inside a callback of the context, and when the context waits for the
    /// caller's; `Busy` for `qcontext-main`. Nothing has changed then.
    pub fn stop(&self) -> Result<()> {
        let core = self.core();
        if core.id == MAIN {
            let message = format!("context '{MAIN}' can not be stopped");
            return Err(Error::new(ErrorKind::Busy, message));
        }
        let right = core.may_wait_for_end("stop")?;
        core.end_and_wait(right)
    }
}

/// Proof that waiting for a context's end is no deadlock.
pub(super) struct MayWait(#[allow(dead_code)] Option<WaitGuard>);

impl ContextCore {
    /// # Errors
    /// `WouldDeadlock` when the context could not end while the calling thread waits.
    pub(super) fn may_wait_for_end(self: &Arc<Self>, what: &str) -> Result<MayWait> {
        if self.reactor.is_driven_here() {
            let id = &self.id;
            let place = if self.threaded {
                "its own thread"
            } else {
                "one of its callbacks"
            };
            let message = format!("context '{id}' can not {what} itself from {place}");
            return Err(Error::new(ErrorKind::WouldDeadlock, message));
        }
        wait_for(self).map(MayWait)
    }

    /// Ends the context and waits for that.
    pub(super) fn end_and_wait(self: &Arc<Self>, _right: MayWait) -> Result<()> {
        self.request_stop();
        if !self.threaded {
            self.wait_until_over();
            return Ok(());
        }
        // Held until the thread has ended, so that every caller waits for that. Only `stop` and `start` take this lock.
        let mut thread = lock(&self.thread);
        let ended = thread.take().map_or(Ok(()), JoinHandle::join);
        drop(thread);
        ended.map_err(|_| {
            let message = format!("the thread of context '{}' panicked", self.id);
            Error::new(ErrorKind::Closed, message)
        })
    }

    /// Asks the thread of a threaded context to end. Ends an unthreaded context here, or lets the thread that iterates it do so.
    pub(super) fn request_stop(self: &Arc<Self>) {
        if self.reactor.is_of_parent() || self.stopping.swap(true, Ordering::AcqRel) {
            return;
        }
        self.reactor.notify();
        if self.threaded || self.end_here() {
            return;
        }
        let core = Arc::clone(self);
        self.reactor.run_between_turns(move || {
            core.end_between_turns();
        });
    }

    /// As [`ContextCore::request_stop`], for the last handle, which does not wait. If another thread iterates the context just
    /// now, and may not do so again, a thread waits for it.
    pub(super) fn request_stop_unattended(self: &Arc<Self>) {
        self.request_stop();
        if self.threaded || self.end.is_over() || self.reactor.is_of_parent() {
            return;
        }
        let core = Arc::clone(self);
        let name = format!("{} ends", self.id);
        let waits = thread::Builder::new().name(name);
        if let Err(error) = waits.spawn(move || core.wait_until_over()) {
            let id = &self.id;
            glib::g_warning!(
                "qcontext",
                "context '{id}' ends when it is iterated the next time: {error}"
            );
        }
    }

    /// Waits until an unthreaded context has been torn down.
    fn wait_until_over(self: &Arc<Self>) {
        while !self.end_here() && !self.end.wait() {}
    }

    /// Tears an unthreaded context down, if no other thread iterates it and no callback of it runs. True when that is done.
    fn end_here(self: &Arc<Self>) -> bool {
        self.end_with_rights(|driving| !driving.is_nested())
    }

    /// As [`ContextCore::end_here`], on the thread that drives, between two turns.
    fn end_between_turns(self: &Arc<Self>) -> bool {
        self.end_with_rights(|_| true)
    }

    fn end_with_rights(self: &Arc<Self>, may_end: impl FnOnce(&Driving<'_>) -> bool) -> bool {
        if self.end.is_over() {
            return true;
        }
        let Ok(_owner) = self.gmain.acquire() else {
            return false;
        };
        let Ok(driving) = self.reactor.drive() else {
            return false;
        };
        // Another thread may have had the rights before.
        if !self.end.is_over() {
            if !may_end(&driving) {
                return false;
            }
            let running = Running::new(self);
            self.tear_down();
            drop(running);
        }
        true
    }

    /// Detaches what was attached and destroys the context's own sources. Runs on the context's thread, or, if the context has
    /// none, on the thread that has all rights to it.
    pub(super) fn tear_down(&self) {
        // No other thread could take these requests from the ring later, and they would keep their AioContext here.
        if let Err(error) = self.reactor.finish_io() {
            let id = &self.id;
            glib::g_warning!(
                "qcontext",
                "context '{id}' stops with I/O in flight: {error}"
            );
        }
        self.release_sources();
        let own = lock(&self.own).take();
        drop(lock(&self.glib_side).take());
        if let Some(own) = own {
            own.reactor_source.destroy();
            let handlers = own.handlers.aio().clone();
            drop(own.handlers);
            for aio in [own.aio, handlers] {
                self.give_back(&aio);
            }
        }
        self.reactor.reap_if_idle();
        // A turn around this one does not wait any more.
        self.reactor.notify();
        self.end.announce();
    }

    /// Lets go of one of the context's own AioContexts. If others have it too, it is given back to them, without what was invoked.
    fn give_back(&self, aio: &AioContext) {
        if !aio.is_shared() {
            return;
        }
        // Tasks cannot move away from this thread, which is ending.
        let _ = aio.cancel_tasks();
        if let Err(error) = aio.drop_oneshots().and_then(|()| aio.detach()) {
            let id = &self.id;
            glib::g_warning!(
                "qcontext",
                "context '{id}' cannot give its AioContext back: {error}"
            );
        }
    }
}
