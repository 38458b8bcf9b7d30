//! Running a closure on a context, with or without waiting for it.
#![forbid(unsafe_code)]

use super::{Inner, QContext, home, lock};
use crate::{Error, ErrorKind, Result};
use std::sync::{Arc, Mutex, mpsc};

/// Which context waits for which, by address: `(waiting, awaited)`.
static WAITS: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

/// An entry of [`WAITS`].
struct Waiting(usize, usize);

impl QContext {
    /// Runs `work` once on this context, always queued, in the order of the calls. Never waits.
    ///
    /// # Errors
    /// `Closed` after a stop. A stop that comes later drops `work` uncalled.
    pub fn invoke(&self, work: impl FnOnce() + Send + 'static) -> Result<()> {
        self.inner().aio()?.schedule_oneshot("invoke", work);
        Ok(())
    }

    /// Runs `work` on this context and waits for its result; on the context's own thread it runs at once.
    ///
    /// The caller holds no lock that callbacks of this context take.
    ///
    /// # Errors
    /// `WouldDeadlock` when this context waits, directly or through others, for the caller's; `Closed` after a stop, also
    /// one that came first.
    pub fn invoke_sync<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        if self.is_current() {
            return Ok(work());
        }
        let waiting = Waiting::enter(self.inner())?;
        let (sender, receiver) = mpsc::sync_channel(1);
        self.invoke(move || drop(sender.send(work())))?;
        let answer = receiver.recv().map_err(|_| self.inner().closed());
        drop(waiting);
        answer
    }
}

impl Waiting {
    /// Records that the caller's context waits for `target`, unless that would close a ring.
    fn enter(target: &Arc<Inner>) -> Result<Option<Waiting>> {
        let Some(current) = home::current() else {
            return Ok(None);
        };
        let (from, to) = (Arc::as_ptr(&current).addr(), Arc::as_ptr(target).addr());
        let mut waits = lock(&WAITS);
        let mut next = Some(to);
        while let Some(context) = next {
            if context == from {
                let message = format!(
                    "context '{}' can not wait for context '{}', which waits for it",
                    current.id, target.id
                );
                return Err(Error::new(ErrorKind::WouldDeadlock, message));
            }
            next = waits
                .iter()
                .find(|(waiting, _)| *waiting == context)
                .map(|(_, awaited)| *awaited);
        }
        waits.push((from, to));
        drop(waits);
        Ok(Some(Waiting(from, to)))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waits = lock(&WAITS);
        if let Some(index) = waits.iter().position(|&wait| wait == (self.0, self.1)) {
            waits.swap_remove(index);
        }
    }
}
