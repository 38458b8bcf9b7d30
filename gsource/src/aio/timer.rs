//! Timers: one-shot callbacks at a nanosecond of one of the four clocks.
//!
//! A timer is taken off its clock before its callback runs, so the callback may arm it again. Equal deadlines fire in
//! arming order; a timer armed by a callback waits for the next iteration.
//!
//! # Threads
//! Any thread arms, cancels and drops a timer. The callback runs on the home thread; cancelling from another thread does not
//! wait for one that has begun.
#![allow(unsafe_code)] // shares callbacks that one thread at a time calls

use crate::clock::Clock;
use crate::reactor::PendingRelease;
use crate::reactor::tenant::Tenant;
use crate::reactor::timer::TimerNode;
use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::Arc;

/// A timer of an AioContext. Dropping it cancels it; the callback is destroyed on the home thread.
///
/// ```
/// use gsource::{AioContext, Clock, Wait};
/// let aio = AioContext::new()?;
/// let timer = aio.timer(Clock::Realtime, || println!("50 us later"));
/// timer.arm_in_ns(50_000);
/// assert!(aio.poll(Wait::Block)?);
/// assert!(!timer.is_armed());
/// # Ok::<(), gsource::Error>(())
/// ```
pub struct Timer(ManuallyDrop<Arc<TimerNode>>);

impl Timer {
    pub(crate) fn new(tenant: Arc<Tenant>, clock: Clock, callback: Box<dyn Fn() + Send>) -> Timer {
        let node = TimerNode::new(tenant, clock, callback);
        Timer(ManuallyDrop::new(Arc::new(node)))
    }

    /// Fires at `deadline_ns` of the timer's clock, in place of any earlier arming. A deadline in the past, also a negative
    /// one, is due at once.
    pub fn arm_at_ns(&self, deadline_ns: i64) {
        let deadline = deadline_ns.max(0);
        self.0
            .tenant
            .on_reactor(|reactor| reactor.arm(&self.0, deadline));
    }

    /// Fires `delay_ns` from now.
    pub fn arm_in_ns(&self, delay_ns: i64) {
        self.arm_at_ns(self.0.clock.now_ns().saturating_add(delay_ns));
    }

    /// Fires no more. A timer that is not armed stays so.
    pub fn cancel(&self) {
        self.0.tenant.on_reactor(|reactor| reactor.cancel(&self.0));
    }

    /// True from arming until the callback begins.
    pub fn is_armed(&self) -> bool {
        self.0.is_armed()
    }

    /// The time for which the timer is armed.
    pub fn deadline_ns(&self) -> Option<i64> {
        let mut deadline = None;
        self.0
            .tenant
            .on_reactor(|reactor| reactor.deadline_of(&self.0, &mut deadline));
        deadline
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.0.kill();
        self.cancel();
        // SAFETY: the handle ends here. The home drops this count, and with it the callback.
        let node = unsafe { ManuallyDrop::take(&mut self.0) };
        let tenant = Arc::clone(&node.tenant);
        tenant.release(PendingRelease::Timer(node));
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer")
            .field("clock", &self.0.clock)
            .field("armed", &self.is_armed())
            .finish()
    }
}
