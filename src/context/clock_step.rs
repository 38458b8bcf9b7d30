//! Stepping the virtual clock, for tests of devices.
#![forbid(unsafe_code)]

use super::{ContextCore, QContext, run};
use crate::Result;
use std::sync::Arc;

/// Moves the virtual clock forwards by `ns`, from one deadline of its timers to the next.
///
/// At each deadline, timers of `qcontext-main` and of the calling thread's context fire inside this call, unless another thread runs
/// that context. So each of their callbacks sees its own deadline as the time if the clock is stopped, and what it arms can fire
/// in the same step. Timers of other contexts fire on their threads, soon; timers of an unattached AioContext when it is polled.
///
/// From the first step on, the timers of a stopped clock fire when they are due, until it is stopped again. Between the steps it
/// stands still.
///
/// # Errors
/// `InvalidArgument` for a step back, or one to a time after 2^59 ns; nothing has changed then.
pub fn step_virtual_clock(ns: i64) -> Result<()> {
    let (main, current) = (QContext::main(), run::current());
    let other = current.filter(|current| !Arc::ptr_eq(current, main.core()));
    gsource::step_virtual_clock(ns, || {
        main.core().fire_virtual_timers();
        if let Some(other) = &other {
            other.fire_virtual_timers();
        }
    })
}

impl ContextCore {
    /// Fires the due timers of the virtual clock, unless another thread runs this context.
    fn fire_virtual_timers(&self) {
        if let Ok(_owner) = self.gmain.acquire() {
            // Fails only while another thread drives the reactor.
            let _ = self.reactor.fire_virtual_timers();
        }
    }
}
