//! The top of a channel: calls the channel's owner, and holds requests back during a drain.
//!
//! Used by a [`Channel`](super::Channel), which checks it in `reap`, and by the ways, which report finished requests here.
//! During a drain the channel lets no new request pass. When no request is below the gate any more, the channel is quiet. There
//! are two kinds of drains:
//!
//! * of the channel alone: its callback runs when the channel is quiet.
//! * of nodes ([`mod@super::drain`]): a channel that is quiet also gives its way up, so that nothing of it is left in the nodes, which
//!   may then be changed. After the release it opens a new way.
//!
//! # Threads
//! A drain may begin and end on any thread. That changes the state, sets `changed` and schedules the bottom half. There the
//! home calls the owner, the owner calls [`Channel::reap`](super::Channel::reap), and the channel checks the state. The
//! callbacks run in that bottom half as well, where the owner's lock is not held, and ways that were given up are dropped there:
//! no callback of theirs is on the stack.
#![forbid(unsafe_code)]

use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use gsource::{AioContext, Bh};

/// The owner of a channel, as the channel sees it.
pub trait ChannelOwner: Send + Sync {
    /// There is something to [`reap`](super::Channel::reap). Called on the home thread of the channel's AioContext, once
    /// for many requests, with no lock held.
    fn ready(&self);
}

/// A drain of nodes, which counts the channels that are quiet.
pub(super) trait CountQuiet: Send + Sync {
    /// One channel more is quiet. Called once for each hold, with no lock of the gate held.
    fn count_quiet(&self);
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
    /// For an [errand](super::errand): drains of nodes do not concern it.
    is_errand: bool,
    /// Work of the way that no request waits for.
    background: AtomicUsize,
    /// How many ways were given up.
    plug: AtomicU64,
    /// How many of them are gone.
    gone: AtomicU64,
    state: Mutex<GateState>,
}

#[derive(Default)]
struct GateState {
    /// The drains under way, by number.
    holds: Vec<Hold>,
    last_number: u64,
    /// The channel is gone.
    is_closed: bool,
    plugging: Plugging,
    /// A drained node did not open its part of the way.
    is_incomplete: bool,
    /// Ways that were given up, until the bottom half drops them.
    given_up: Vec<Box<dyn Send>>,
}

/// Whether the channel has a way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Plugging {
    #[default]
    Unplugged,
    /// It has one, or is opening it.
    Plugged,
    /// It was given up and is still there.
    Leaving,
}

struct Hold {
    number: u64,
    is_for_nodes: bool,
    /// `None` once it has happened.
    quiet: Option<Quiet>,
    /// The channel was quiet during this drain.
    is_due: bool,
}

/// What happens when the channel is quiet.
enum Quiet {
    /// The callback is called.
    Call(QuietCallback),
    /// The way is given up, and the drain of nodes counts the channel.
    Nodes(Arc<dyn CountQuiet>),
}

/// What a channel is to do after a look at its gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GateVerdict {
    /// Requests may pass.
    Pass,
    /// Requests are held back.
    Hold,
    /// A way is to be opened, then look again.
    Plug,
    /// The way is to be given up with [`Gate::give_up`], then look again.
    Unplug,
}

/// A drain under way. Requests go on when the last one is dropped.
#[must_use = "requests go on when this is dropped"]
pub struct Drained {
    gate: Arc<Gate>,
    number: u64,
}

impl Gate {
    pub(super) fn new(aio: &AioContext, owner: Weak<dyn ChannelOwner>) -> Arc<Gate> {
        Gate::build(aio, owner, false)
    }

    /// A gate that drains of nodes do not hold: for work that belongs to a change of the graph.
    pub(super) fn for_errand(aio: &AioContext, owner: Weak<dyn ChannelOwner>) -> Arc<Gate> {
        Gate::build(aio, owner, true)
    }

    fn build(aio: &AioContext, owner: Weak<dyn ChannelOwner>, is_errand: bool) -> Arc<Gate> {
        Arc::new_cyclic(|gate: &Weak<Gate>| {
            let gate = Weak::clone(gate);
            let run = move || {
                if let Some(gate) = gate.upgrade() {
                    gate.call_owner();
                    gate.drop_given_up();
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
                is_errand,
                background: AtomicUsize::new(0),
                plug: AtomicU64::new(0),
                gone: AtomicU64::new(0),
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

    /// Whether the owner wants to rest.
    pub(super) fn wants_rest(&self) -> bool {
        self.is_hurried.load(Ordering::Relaxed)
    }

    /// Begins or ends a time in which the owner wants to rest.
    pub(super) fn set_hurried(&self, is_hurried: bool) {
        self.is_hurried.store(is_hurried, Ordering::Relaxed);
        if is_hurried {
            self.schedule();
        }
    }

    /// How many pieces of work the way has that no request waits for. The channel is not quiet before they have ended.
    #[inline]
    pub(super) fn background(&self) -> usize {
        self.background.load(Ordering::Relaxed)
    }

    /// A piece of such work begins. On the home.
    pub(super) fn background_begins(&self) {
        self.background.fetch_add(1, Ordering::Relaxed);
    }

    /// A piece of such work has ended. On the home, while the channel reaps.
    pub(super) fn background_ends(&self) {
        self.background.fetch_sub(1, Ordering::Relaxed);
    }

    /// Begins a drain of the channel alone.
    pub(super) fn hold(self: &Arc<Gate>, callback: QuietCallback) -> Drained {
        let mut state = self.state();
        let is_due = state.is_closed;
        let number = state.add(Quiet::Call(callback), is_due);
        self.is_held.store(true, Ordering::Relaxed);
        drop(state);
        self.held_as(number)
    }

    /// Holds the channel for a drain of nodes, which counts it when it is quiet. `None` if the channel is gone.
    pub(super) fn hold_for(self: &Arc<Gate>, drain: &Arc<dyn CountQuiet>) -> Option<Drained> {
        let mut state = self.state();
        if state.is_closed {
            return None;
        }
        let number = state.add(Quiet::Nodes(Arc::clone(drain)), false);
        self.is_held.store(true, Ordering::Relaxed);
        drop(state);
        Some(self.held_as(number))
    }

    fn held_as(self: &Arc<Gate>, number: u64) -> Drained {
        self.tell_channel();
        Drained {
            gate: Arc::clone(self),
            number,
        }
    }

    /// Whether drains of nodes do not concern it.
    pub(super) fn is_errand(&self) -> bool {
        self.is_errand
    }

    /// The number of the way that the channel has or opens.
    pub(super) fn plug(&self) -> u64 {
        self.plug.load(Ordering::Acquire)
    }

    /// Whether the way of that number may still be there.
    pub(super) fn has_way(&self, plug: u64) -> bool {
        plug >= self.gone.load(Ordering::Acquire)
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

    /// Tells the channel what to do. `is_quiet` says that no request is below the gate. A channel that is to open a way counts
    /// as having one from here on.
    pub(super) fn check(&self, is_quiet: bool) -> GateVerdict {
        self.changed.store(false, Ordering::Relaxed);
        // A thread that set the flag before this line had changed the state earlier, so the change is visible below.
        let mut state = self.state();
        if state.holds.is_empty() {
            let before = mem::replace(&mut state.plugging, Plugging::Plugged);
            let is_incomplete = mem::take(&mut state.is_incomplete);
            return match before {
                Plugging::Plugged if !is_incomplete => GateVerdict::Pass,
                _ => GateVerdict::Plug,
            };
        }
        if !is_quiet {
            return GateVerdict::Hold;
        }
        self.make_due(&mut state);
        let is_for_nodes = state.holds.iter().any(|hold| hold.is_for_nodes);
        match state.plugging == Plugging::Plugged && is_for_nodes {
            true => GateVerdict::Unplug,
            false => GateVerdict::Hold,
        }
    }

    /// A drained node does not open its part of the way. The channel opens another one, even if that drain is over when it looks
    /// at the gate.
    pub(super) fn note_incomplete(&self) {
        self.state().is_incomplete = true;
    }

    /// Takes the way of a quiet channel, to be dropped in the next iteration.
    pub(super) fn give_up(&self, way: impl Send + 'static) {
        let mut state = self.state();
        state.plugging = Plugging::Leaving;
        state.is_incomplete = false;
        state.given_up.push(Box::new(way));
        self.plug.fetch_add(1, Ordering::AcqRel);
        drop(state);
        self.schedule();
    }

    fn drop_given_up(&self) {
        let mut state = self.state();
        let ways = mem::take(&mut state.given_up);
        let plug = self.plug();
        drop(state);
        if ways.is_empty() {
            return;
        }
        drop(ways);
        self.gone.store(plug, Ordering::Release);
        self.has_left(&mut self.state());
    }

    /// The way that was given up is gone.
    fn has_left(&self, state: &mut GateState) {
        if state.plugging == Plugging::Leaving {
            state.plugging = Plugging::Unplugged;
            self.make_due(state);
        }
    }

    /// The channel is dropped, and has no way any more. It counts as quiet from now on.
    pub(super) fn close(&self) {
        let ways = mem::take(&mut self.state().given_up);
        drop(ways);
        let mut state = self.state();
        state.is_closed = true;
        state.plugging = Plugging::Unplugged;
        self.make_due(&mut state);
        // At once, because the home may be gone.
        let counting = state.take_due(|hold| hold.is_for_nodes);
        drop(state);
        counting.into_iter().for_each(Quiet::happen);
    }

    /// The channel is quiet.
    fn make_due(&self, state: &mut GateState) {
        let is_unplugged = state.plugging == Plugging::Unplugged;
        let holds = state.holds.iter_mut();
        for hold in holds.filter(|hold| !hold.is_due && (is_unplugged || !hold.is_for_nodes)) {
            hold.is_due = true;
            self.bh.schedule();
        }
    }

    /// Calls those who wait for the channel to be quiet.
    fn call_due(&self) {
        let due = self.state().take_due(|_| true);
        due.into_iter().for_each(Quiet::happen);
    }

    /// The state is consistent after every single operation on it.
    fn state(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GateState {
    fn add(&mut self, quiet: Quiet, is_due: bool) -> u64 {
        self.last_number += 1;
        self.holds.push(Hold {
            number: self.last_number,
            is_for_nodes: matches!(quiet, Quiet::Nodes(_)),
            quiet: Some(quiet),
            is_due,
        });
        self.last_number
    }

    fn take_due(&mut self, wanted: fn(&Hold) -> bool) -> Vec<Quiet> {
        let holds = self.holds.iter_mut();
        let due = holds.filter(|hold| hold.is_due && wanted(hold));
        due.filter_map(|hold| hold.quiet.take()).collect()
    }
}

impl Quiet {
    fn happen(self) {
        match self {
            Quiet::Call(callback) => callback(),
            Quiet::Nodes(drain) => drain.count_quiet(),
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("holds", &self.state().holds.len())
            .finish_non_exhaustive()
    }
}

impl Drained {
    /// Whether it holds the channel of `gate`.
    pub(super) fn is_of(&self, gate: &Arc<Gate>) -> bool {
        Arc::ptr_eq(&self.gate, gate)
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
