//! What binds a reactor to the thread of its tasks.
//!
//! # Invariants
//! 1. Counts rise under the right to drive and fall on the thread that has raised them. So while they are above 0, `thread`
//!    names that thread, and nobody else drives.
#![forbid(unsafe_code)]

use crate::aio::Core;
use crate::reactor::{Reactor, thread_token};
use crate::sync::Ordering;
use crate::{Error, ErrorKind, Result};
use std::marker::PhantomData;
use std::sync::Arc;

/// A task's share in keeping its context where it is.
pub(super) struct Stay {
    core: Arc<Core>,
    reactor: Arc<Reactor>,
    /// It ends on its thread.
    thread: PhantomData<*mut ()>,
}

impl Stay {
    /// Binds `core` and the reactor it is on to the calling thread.
    ///
    /// # Errors
    /// `WrongThread` when another thread drives.
    pub(super) fn begin(core: &Arc<Core>) -> Result<Stay> {
        loop {
            let reactor = reactor_of(core)?;
            if !reactor.is_driven_here() && reactor.thread_pin.wait_elsewhere() {
                let message = "another thread iterates the GMainContext that drives this context";
                return Err(Error::new(ErrorKind::WrongThread, message));
            }
            let _driving = reactor.drive()?;
            // Nobody moves the context any more, but somebody may just have done so.
            if core.is_on(&reactor) {
                reactor.thread_pin.enter(thread_token());
                core.tasks.fetch_add(1, Ordering::SeqCst);
                let (core, reactor) = (Arc::clone(core), Arc::clone(&reactor));
                return Ok(Stay {
                    core,
                    reactor,
                    thread: PhantomData,
                });
            }
        }
    }

    pub(super) fn is_of(&self, core: &Arc<Core>) -> bool {
        Arc::ptr_eq(&self.core, core)
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.core.tasks.fetch_sub(1, Ordering::SeqCst);
        if self.reactor.thread_pin.leave() && !self.reactor.is_driven_here() {
            // Others may have left things here that they could not drop.
            self.reactor.leave_to_home();
        }
    }
}

fn reactor_of(core: &Core) -> Result<Arc<Reactor>> {
    let mut reactor = None;
    core.visit(|attachment| reactor = Some(Arc::clone(&attachment.reactor)));
    reactor.ok_or_else(|| Error::new(ErrorKind::Closed, "the AioContext has been torn down"))
}
