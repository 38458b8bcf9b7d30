//! The drain of whole nodes: no request is in them, no queue has a way through them, and no resize is under way ([`resize`]), until it
//! is released.
//!
//! Used by whatever changes the graph: a node that is opened anew, a child that becomes another node, a filter that comes or goes,
//! the beginning and the end of a job. Each channel that passes through one of the nodes, wherever its top is, holds new
//! requests back, waits for those below, and gives up its way. After the release it opens a new one, through the graph as it is
//! then, and its requests go on in their order.
//!
//! * A channel that is opened meanwhile begins held. One that is closed counts as quiet.
//! * Drains may overlap. A channel goes on after the last one.
//! * A drain waits for requests, and these wait for nothing that a drain holds. So a drain may not wait for a device to rest
//!   (stop, move, unplug), which waits for its requests, while it holds them.
//!
//! # Threads
//! A drain begins, is awaited and ends on any thread, with any lock held. The channels do their part on their homes.
//!
//! # Invariants
//! 1. When the future is ready, no channel has a way through the nodes, and none opens one before the release.
//! 2. Locks are taken in this order: a node's [`Crossing`], `DrainState`, the gate's. A waker is called under none of them.
#![forbid(unsafe_code)]

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use super::gate::{CountQuiet, Drained, Gate};
use super::node::Node;

mod resize;
#[cfg(test)]
mod tests;

use resize::Resizes;

/// Begins to drain `nodes`. The answer is a future, which is ready when they are quiet. Dropping it ends the drain.
///
/// Such a future can be awaited in a task of an `AioContext`, see `AioContext::spawn`. It must not be a home that has to serve a
/// request below the nodes and waits for the future by blocking.
pub fn drain<'a>(nodes: impl IntoIterator<Item = &'a Arc<Node>>) -> Draining {
    let state: Arc<DrainState> = Arc::default();
    // Counts itself until all channels are held.
    state.lock().waited_for = 1;
    let drained = DrainedNodes {
        nodes: nodes.into_iter().map(Arc::clone).collect(),
        state: Arc::clone(&state),
    };
    for node in &drained.nodes {
        for gate in node.crossing().begin_drain(&state) {
            state.hold(&gate);
        }
    }
    state.count_quiet();
    Draining(Some(drained))
}

/// Lets the channels that pass through `node` open their ways anew, when their homes have time.
pub(super) fn reopen_ways(node: &Arc<Node>) {
    let draining = drain([node]);
    Arc::new(Reopening(Mutex::new(Some(draining)))).advance();
}

/// A drain that ends when it is complete.
struct Reopening(Mutex<Option<Draining>>);

impl Reopening {
    fn advance(self: Arc<Self>) {
        let waker = Waker::from(Arc::clone(&self));
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let polled = slot
            .as_mut()
            .map(|draining| Pin::new(draining).poll(&mut Context::from_waker(&waker)));
        let over = match polled {
            Some(Poll::Ready(drained)) => Some((slot.take(), drained)),
            _ => None,
        };
        drop(slot);
        drop(over);
    }
}

impl Wake for Reopening {
    fn wake(self: Arc<Self>) {
        self.advance();
    }
}

/// A drain that has begun; see [`drain`].
#[derive(Debug)]
#[must_use = "the drain ends when this is dropped"]
pub struct Draining(Option<DrainedNodes>);

impl Future for Draining {
    type Output = DrainedNodes;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<DrainedNodes> {
        let is_quiet = match &self.0 {
            Some(drained) => drained.state.is_quiet(context.waker()),
            None => unreachable!("polled after its end"),
        };
        match self.0.take() {
            Some(drained) if is_quiet => Poll::Ready(drained),
            waiting => {
                self.0 = waiting;
                Poll::Pending
            }
        }
    }
}

impl Draining {
    /// Blocks the thread until the nodes are quiet. It may not be the home of one of their queues.
    pub fn wait(mut self) -> DrainedNodes {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        loop {
            let mut context = Context::from_waker(&waker);
            if let Poll::Ready(drained) = Pin::new(&mut self).poll(&mut context) {
                return drained;
            }
            thread::park();
        }
    }
}

/// Lets a thread that waits go on.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Nodes without requests. They go on when this is dropped.
#[must_use = "requests go on when this is dropped"]
pub struct DrainedNodes {
    nodes: Vec<Arc<Node>>,
    state: Arc<DrainState>,
}

impl DrainedNodes {
    /// Whether `node` is one of them.
    pub fn contains(&self, node: &Node) -> bool {
        self.nodes.iter().any(|drained| drained.id() == node.id())
    }
}

impl Drop for DrainedNodes {
    fn drop(&mut self) {
        // First, so that no channel that goes on is held once more.
        for node in &self.nodes {
            node.crossing().end_drain(&self.state);
        }
        let holds = mem::take(&mut self.state.lock().holds);
        drop(holds);
    }
}

impl fmt::Debug for DrainedNodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.nodes.iter().map(|node| node.name());
        f.debug_list().entries(names).finish()
    }
}

/// What one drain waits for: channels, and nodes that are being resized.
#[derive(Debug, Default)]
pub(super) struct DrainState(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// How many of them are not quiet yet.
    waited_for: usize,
    waker: Option<Waker>,
    holds: Vec<Drained>,
}

impl DrainState {
    /// Holds the channel of `gate`, once.
    fn hold(self: &Arc<DrainState>, gate: &Arc<Gate>) {
        let mut waiting = self.lock();
        if waiting.holds.iter().any(|hold| hold.is_of(gate)) {
            return;
        }
        let counting: Arc<dyn CountQuiet> = Arc::<DrainState>::clone(self);
        if let Some(hold) = gate.hold_for(&counting) {
            waiting.waited_for += 1;
            waiting.holds.push(hold);
        }
    }

    /// Whether all are quiet. Otherwise `waker` is called when they are.
    fn is_quiet(&self, waker: &Waker) -> bool {
        let mut waiting = self.lock();
        if waiting.waited_for == 0 {
            return true;
        }
        let before = waiting.waker.replace(waker.clone());
        drop(waiting);
        drop(before);
        false
    }

    /// The state is consistent after every single operation on it.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CountQuiet for DrainState {
    fn count_quiet(&self) {
        let mut waiting = self.lock();
        waiting.waited_for -= 1;
        let waker = match waiting.waited_for {
            0 => waiting.waker.take(),
            _ => None,
        };
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The channels that pass through one node, and the drains that hold them there.
#[derive(Debug, Default)]
pub(super) struct Crossing {
    traffic: Mutex<Traffic>,
    /// The last drain has ended.
    released: Condvar,
}

#[derive(Debug, Default)]
struct Traffic {
    passing: Vec<Passing>,
    drains: Vec<Arc<DrainState>>,
    resizes: Resizes,
}

/// A channel's way.
#[derive(Debug)]
struct Passing {
    gate: Weak<Gate>,
    plug: u64,
}

impl Crossing {
    /// A channel is going to open a way through the node. False if the node is drained: then the channel is held and gets no way.
    pub(super) fn enter(&self, gate: &Arc<Gate>) -> bool {
        if gate.is_errand() {
            return true;
        }
        let mut traffic = self.lock();
        let others = traffic.sort_out();
        for drain in &traffic.drains {
            drain.hold(gate);
        }
        let is_open = traffic.drains.is_empty();
        match is_open {
            true => traffic.passing.push(Passing {
                gate: Arc::downgrade(gate),
                plug: gate.plug(),
            }),
            false => gate.note_incomplete(),
        }
        drop(traffic);
        // Outside of the lock: a gate may end here.
        drop(others);
        is_open
    }

    /// Returns the channels that have a way through the node.
    fn begin_drain(&self, drain: &Arc<DrainState>) -> Vec<Arc<Gate>> {
        let mut traffic = self.lock();
        traffic.drains.push(Arc::clone(drain));
        if !traffic.resizes.is_empty() {
            drain.lock().waited_for += 1;
        }
        let (passing, gone) = traffic.sort_out();
        drop(traffic);
        drop(gone);
        passing
    }

    fn end_drain(&self, drain: &Arc<DrainState>) {
        let mut traffic = self.lock();
        traffic.drains.retain(|other| !Arc::ptr_eq(other, drain));
        drop(traffic);
        self.released.notify_all();
    }

    /// The traffic is consistent after every single operation on it.
    fn lock(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Traffic {
    /// Forgets the channels that have no way any more. Returns those that have one, and the others.
    fn sort_out(&mut self) -> (Vec<Arc<Gate>>, Vec<Arc<Gate>>) {
        let (mut passing, mut gone) = (Vec::new(), Vec::new());
        self.passing.retain(|known| match known.gate.upgrade() {
            Some(gate) if gate.has_way(known.plug) => {
                passing.push(gate);
                true
            }
            gate => {
                gone.extend(gate);
                false
            }
        });
        (passing, gone)
    }
}
