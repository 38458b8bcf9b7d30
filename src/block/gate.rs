//! The top of a channel: calls the channel's owner, and holds requests back during a drain.
//!
//! Used by a [`Channel`](super::Channel), which checks it in `reap`, and by the ways, which report finished requests here.
//! During a drain the channel lets no new request pass. When no request is below the gate any more, the drain's callback
//! runs.
//!
//! # Threads
//! A drain may begin and end on any thread. That changes the state, sets `changed` and schedules the bottom half. There the
//! home calls the owner, the owner calls [`Channel::reap`](super::Channel::reap), and the channel checks the state. The
//! callbacks run in that bottom half as well, where the owner's lock is not held.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use gsource::{AioContext, Bh};

/// The owner of a channel, as the channel sees it.
pub trait ChannelOwner: Send + Sync {
    /// There is something to [`reap`](super::Channel::reap). Called on the home thread of the channel's AioContext, once
    /// for many requests, with no lock held.
    fn ready(&self);
}

/// Called when a drained channel is quiet.
type QuietCallback = Box<dyn FnOnce() + Send>;

/// The top of a channel; see the head of this file.
pub(super) struct Gate {
    aio: AioContext,
    owner: Weak<dyn ChannelOwner>,
    bh: Bh,
    /// Drains have begun or ended, and the channel has not checked `state` since.
    changed: AtomicBool,
    /// There are drains.
    is_held: AtomicBool,
    /// The owner wants to rest.
    is_hurried: AtomicBool,
    state: Mutex<GateState>,
}

#[derive(Default)]
struct GateState {
    /// The drains under way, by number.
    holds: Vec<Hold>,
    last_number: u64,
    /// The channel is gone.
    is_closed: bool,
}

struct Hold {
    number: u64,
    /// `None` once it was called.
    callback: Option<QuietCallback>,
    /// The channel was quiet during this drain.
    is_due: bool,
}

/// A drain under way. Requests go on when the last one is dropped.
#[must_use = "requests go on when this is dropped"]
pub struct Drained {
    gate: Arc<Gate>,
    number: u64,
}

impl Gate {
    pub(super) fn new(aio: &AioContext, owner: Weak<dyn ChannelOwner>) -> Arc<Gate> {
        Arc::new_cyclic(|gate: &Weak<Gate>| {
            let gate = Weak::clone(gate);
            let run = move || {
                if let Some(gate) = gate.upgrade() {
                    gate.call_owner();
                    gate.call_due();
                }
            };
            Gate {
                aio: aio.clone(),
                owner,
                bh: aio.bh("block-channel", run),
                changed: AtomicBool::new(false),
                is_held: AtomicBool::new(false),
                is_hurried: AtomicBool::new(false),
                state: Mutex::default(),
            }
        })
    }

    /// The AioContext in whose callbacks requests are served.
    pub(super) fn aio(&self) -> &AioContext {
        &self.aio
    }

    /// Calls the owner. On the home thread, with no lock held.
    pub(super) fn call_owner(&self) {
        if let Some(owner) = self.owner.upgrade() {
            owner.ready();
        }
    }

    /// Calls the owner in the next iteration of the home.
    pub(super) fn schedule(&self) {
        self.bh.schedule();
    }

    /// Whether drains have begun or ended since [`Gate::check`].
    #[inline]
    pub(super) fn has_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    /// Whether requests below should come back without waits that are not for the data: the channel is drained, or its owner
    /// wants to rest.
    pub(super) fn is_hurried(&self) -> bool {
        self.is_held.load(Ordering::Relaxed) || self.is_hurried.load(Ordering::Relaxed)
    }

    /// Begins or ends a time in which the owner wants to rest.
    pub(super) fn set_hurried(&self, is_hurried: bool) {
        self.is_hurried.store(is_hurried, Ordering::Relaxed);
        if is_hurried {
            self.schedule();
        }
    }

    pub(super) fn hold(self: &Arc<Gate>, callback: QuietCallback) -> Drained {
        let mut state = self.state();
        state.last_number += 1;
        let number = state.last_number;
        let is_due = state.is_closed;
        state.holds.push(Hold {
            number,
            callback: Some(callback),
            is_due,
        });
        self.is_held.store(true, Ordering::Relaxed);
        drop(state);
        self.tell_channel();
        Drained {
            gate: Arc::clone(self),
            number,
        }
    }

    fn release(&self, number: u64) {
        let mut state = self.state();
        let index = state.holds.iter().position(|hold| hold.number == number);
        let gone = index.map(|index| state.holds.remove(index));
        self.is_held
            .store(!state.holds.is_empty(), Ordering::Relaxed);
        drop(state);
        // Outside of the lock: the callback is foreign code.
        drop(gone);
        self.tell_channel();
    }

    fn tell_channel(&self) {
        self.changed.store(true, Ordering::Release);
        self.bh.schedule();
    }

    /// Tells the channel whether requests are held back. `is_quiet` says that no request is below the gate.
    pub(super) fn check(&self, is_quiet: bool) -> bool {
        self.changed.store(false, Ordering::Relaxed);
        // A thread that set the flag before this line had changed the state earlier, so the change is visible below.
        let mut state = self.state();
        if is_quiet {
            self.make_due(&mut state);
        }
        !state.holds.is_empty()
    }

    /// The channel is dropped. It counts as quiet from now on.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        self.make_due(&mut state);
        drop(state);
    }

    fn make_due(&self, state: &mut GateState) {
        for hold in state.holds.iter_mut().filter(|hold| !hold.is_due) {
            hold.is_due = true;
            self.bh.schedule();
        }
    }

    /// Calls the callbacks of the drains for which the channel was quiet.
    fn call_due(&self) {
        let mut state = self.state();
        let due = state.holds.iter_mut().filter(|hold| hold.is_due);
        let callbacks: Vec<_> = due.filter_map(|hold| hold.callback.take()).collect();
        drop(state);
        for callback in callbacks {
            callback();
        }
    }

    /// The state is consistent after every single operation on it.
    fn state(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("holds", &self.state().holds.len())
            .finish_non_exhaustive()
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        self.gate.release(self.number);
    }
}

impl fmt::Debug for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drained")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}
