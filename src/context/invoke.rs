//! Running a closure on a context, with or without waiting for it.
#![forbid(unsafe_code)]

use super::{ContextCore, QContext, lock, run};
use crate::{Error, ErrorKind, Result};
use std::sync::{Arc, Mutex, mpsc};

/// Which context waits for which.
static WAITS: Mutex<Vec<WaitEdge>> = Mutex::new(Vec::new());

/// One context waits for another, both by address. Listed in [`WAITS`] while it exists.
#[derive(Clone, Copy, PartialEq, Eq)]
struct WaitEdge {
    waiting: usize,
    awaited: usize,
}

/// Takes its edge out of the list when it is dropped.
pub(super) struct WaitGuard(WaitEdge);

impl QContext {
    /// Queues `work` to run once on this context, in the order of the calls. Never waits.
    ///
    /// # Errors
    /// `Closed` after a stop. A stop that comes later drops `work` uncalled.
    pub fn invoke(&self, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let core = self.core();
        // Under the lock, so that a stop finds it. Nothing foreign runs: the context has not ended, and takes it.
        match &*lock(&core.own) {
            Some(own) => own.aio.schedule_oneshot("invoke", work),
            None => return Err(core.closed()),
        }
        Ok(())
    }

    /// Runs `work` on this context and waits for its result. On the context's own thread it runs at once.
    ///
    /// The caller must not hold a lock that callbacks of this context take.
    ///
    /// # Errors
    /// `WouldDeadlock` when this context waits, directly or through others, for the caller's; `Closed` when the context was
    /// stopped before `work` ran.
    pub fn invoke_sync<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        if self.is_current() {
            return Ok(work());
        }
        let guard = wait_for(self.core())?;
        let (sender, receiver) = mpsc::sync_channel(1);
        self.invoke(move || drop(sender.send(work())))?;
        let answer = receiver.recv().map_err(|_| self.core().closed());
        drop(guard);
        answer
    }
}

/// Records that the caller's context, if it runs one, waits for `target`.
///
/// # Errors
/// `WouldDeadlock` when `target` waits for the caller's context already; `WrongThread` when its thread is in the parent process.
pub(super) fn wait_for(target: &Arc<ContextCore>) -> Result<Option<WaitGuard>> {
    if target.reactor.is_of_parent() {
        return Err(target.of_parent());
    }
    let Some(current) = run::current() else {
        return Ok(None);
    };
    let edge = WaitEdge {
        waiting: Arc::as_ptr(&current).addr(),
        awaited: Arc::as_ptr(target).addr(),
    };
    let mut waits = lock(&WAITS);
    if leads_to(&waits, edge.awaited, edge.waiting) {
        let message = format!(
            "context '{}' can not wait for context '{}', which waits for it",
            current.id, target.id
        );
        return Err(Error::new(ErrorKind::WouldDeadlock, message));
    }
    waits.push(edge);
    drop(waits);
    Ok(Some(WaitGuard(edge)))
}

/// True if `from` is `to`, or waits for it directly or through others. A context waits for one other at a time.
fn leads_to(waits: &[WaitEdge], from: usize, to: usize) -> bool {
    let next = |&context: &usize| {
        let edge = waits.iter().find(|edge| edge.waiting == context);
        edge.map(|edge| edge.awaited)
    };
    std::iter::successors(Some(from), next).any(|context| context == to)
}

impl Drop for WaitGuard {
    fn drop(&mut self) {
        let mut waits = lock(&WAITS);
        if let Some(index) = waits.iter().position(|edge| *edge == self.0) {
            waits.swap_remove(index);
        }
    }
}
