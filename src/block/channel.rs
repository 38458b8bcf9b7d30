//! A queue's channel to a node.
//!
//! Used by devices. The owner fills requests and submits them; some are finished at once, the others come back from
//! [`Channel::reap`]. The [`Way`] that the node's driver opened brings a request to the data. Above it
//! the channel checks requests, counts them, and holds them back while it is drained.
//!
//! # Threads
//! A channel belongs to one owner, a device queue for example, which locks around it and uses it on the home thread of
//! its AioContext. When requests have finished there, the channel calls [`ChannelOwner::ready`] with no lock held.
//!
//! # Invariants
//! 1. A submitted request belongs to the channel. It comes back exactly once, from `submit` or from `reap`.
//! 2. The owner drops a channel only when [`Channel::in_flight`] is 0. If it does not, the requests that the kernel has
//!    are leaked together with what they need, and never come back.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Weak};

use gsource::AioContext;

use super::budget::Budget;
use super::gate::{ChannelOwner, Drained, Gate, GateVerdict};
use super::graph::{Edge, EdgeTarget};
use super::node::Node;
use super::permission::Permissions;
use super::request::{Finished, Op, Request, RequestBatch, Submission};
use super::way::Way;

#[cfg(test)]
mod tests;

/// One queue's way to a node.
#[derive(Debug)]
pub struct Channel {
    target: Arc<EdgeTarget>,
    /// What the target was when the way was opened.
    node: Arc<Node>,
    may_write: bool,
    may_populate: bool,
    /// The unit of requests.
    block_size: u64,
    /// The unit of writes, which is smaller if the way takes parts of blocks.
    write_size: u64,
    /// The least unit that the owner wants.
    least_block_size: u64,
    way: Way,
    budget: Budget,
    /// Requests on the way.
    below: usize,
    gate: Arc<Gate>,
    is_held: bool,
    /// Submitted while the channel is held.
    held: VecDeque<Box<Request>>,
    pool: RequestBatch,
}

impl Channel {
    /// Opens a channel to the node of `edge`, for requests in the callbacks of `aio` that the edge's permissions allow. The
    /// channel holds its owner weakly, because the owner usually has the channel.
    pub fn open(edge: &Edge, aio: &AioContext, owner: Weak<dyn ChannelOwner>) -> Channel {
        Channel::to_target(edge.target(), edge.permissions(), aio, owner)
    }

    /// The same for work on nodes that are drained.
    pub(super) fn for_errand(
        edge: &Edge,
        aio: &AioContext,
        owner: Weak<dyn ChannelOwner>,
    ) -> Channel {
        let gate = Gate::for_errand(aio, owner);
        Channel::through(gate, edge.target(), edge.permissions())
    }

    pub(super) fn to_target(
        target: &Arc<EdgeTarget>,
        permissions: Permissions,
        aio: &AioContext,
        owner: Weak<dyn ChannelOwner>,
    ) -> Channel {
        Channel::through(Gate::new(aio, owner), target, permissions)
    }

    fn through(gate: Arc<Gate>, target: &Arc<EdgeTarget>, permissions: Permissions) -> Channel {
        let node = target.node();
        let mut channel = Channel {
            target: Arc::clone(target),
            may_write: permissions.contains(Permissions::WRITE),
            may_populate: permissions.contains(Permissions::WRITE_UNCHANGED),
            block_size: node.block_size(),
            write_size: node.block_size(),
            least_block_size: 1,
            node,
            way: Way::Absent,
            budget: Budget::BATCH,
            below: 0,
            gate,
            is_held: false,
            held: VecDeque::new(),
            pool: Vec::new(),
        };
        channel.follow_gate();
        channel
    }

    #[cfg(test)]
    pub(super) fn is_marking(&self) -> bool {
        matches!(self.way, Way::Marking(_))
    }

    /// The node to which requests go.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Refuses requests that are not made of blocks of `size` bytes, a power of two.
    pub fn set_block_size(&mut self, size: u64) {
        self.least_block_size = size;
        self.follow_block_size();
    }

    /// Begins a batch: what may be done at once is limited per batch.
    pub fn begin_batch(&mut self) {
        self.budget = Budget::BATCH;
    }

    /// Whether this batch has done as much at once as it may; the rest should wait for the next iteration, so that
    /// neighbours on the same context get their turn.
    pub fn is_spent(&self) -> bool {
        self.budget.is_spent()
    }

    /// A fresh request from the pool.
    #[inline]
    pub fn request(&mut self, op: Op, offset: u64, tag: u64) -> Box<Request> {
        let mut request = self.pool.pop().unwrap_or_else(Request::boxed);
        request.reset(op, offset, tag);
        request
    }

    /// Takes a request back into the pool.
    pub fn recycle(&mut self, request: Box<Request>) {
        self.pool.push(request);
    }

    /// How many requests have not come back yet. What they have left to be done counts as well.
    pub fn in_flight(&self) -> usize {
        self.below + self.held.len() + self.gate.background()
    }

    /// Starts a request. While the channel is held, the request waits for the release.
    pub fn submit(&mut self, request: Box<Request>) -> Submission {
        if self.is_held {
            self.held.push_back(request);
            return Submission::Queued;
        }
        self.start(request)
    }

    /// Starts a request anew that has come back with an error.
    pub fn repeat(&mut self, mut request: Box<Request>) -> Submission {
        request.restart();
        self.submit(request)
    }

    fn start(&mut self, mut request: Box<Request>) -> Submission {
        if let Some(result) = self.refuse(&request) {
            request.is_too_fine = result < 0 && self.is_too_fine(&request);
            return Submission::Done(Finished { request, result });
        }
        let submission = self.way.submit(request, &mut self.budget);
        if let Submission::Queued = submission {
            self.below += 1;
        }
        submission
    }

    /// Calls the owner in the next iteration.
    pub(super) fn call_owner_later(&self) {
        self.gate.schedule();
    }

    /// Hands over to the engine what was submitted since the last time; once per batch.
    pub fn flush_submissions(&mut self) {
        self.way.flush_submissions();
    }

    /// Appends what is finished to `finished`, and goes on with what is not.
    pub fn reap(&mut self, finished: &mut Vec<Finished>) {
        if self.below > 0 || self.gate.background() > 0 {
            let before = finished.len();
            self.way.reap(&mut self.budget, finished);
            self.below -= finished.len() - before;
        }
        if self.is_held || self.gate.has_changed() {
            self.check_gate(finished);
        }
    }

    /// Begins or ends a time in which the owner wants to rest: what is in flight comes back without waits that are not for the
    /// data, such as those for a throttle group.
    pub fn set_hurried(&mut self, is_hurried: bool) {
        self.gate.set_hurried(is_hurried);
    }

    /// Holds new requests back, and calls `quiet` on the home thread when those that have passed have come back. The
    /// requests go on, in order, when the answer and those of all other drains of this channel have been dropped.
    ///
    /// If the answer is dropped first, `quiet` is not called. A channel that is dropped is quiet.
    pub fn drain(&mut self, quiet: impl FnOnce() + Send + 'static) -> Drained {
        self.is_held = true;
        self.gate.hold(Box::new(quiet))
    }

    /// Begins or ends to hold requests back, if drains have begun or ended.
    fn check_gate(&mut self, finished: &mut Vec<Finished>) {
        self.follow_gate();
        if self.is_held || self.held.is_empty() {
            return;
        }
        while let Some(request) = self.held.pop_front() {
            if let Submission::Done(done) = self.start(request) {
                finished.push(done);
            }
        }
        self.flush_submissions();
    }

    /// Opens or gives up the way, and holds requests back, as drains demand.
    fn follow_gate(&mut self) {
        loop {
            match self.gate.check(self.below + self.gate.background() == 0) {
                GateVerdict::Plug => {
                    self.node = self.target.node();
                    self.way = self.node.open_way(&self.gate);
                    self.follow_block_size();
                }
                GateVerdict::Unplug => {
                    self.gate.give_up(mem::replace(&mut self.way, Way::Absent));
                }
                verdict => {
                    self.is_held = verdict == GateVerdict::Hold;
                    return;
                }
            }
        }
    }

    fn follow_block_size(&mut self) {
        self.block_size = self.least_block_size.max(self.node.block_size());
        self.write_size = match self.way.takes_parts() {
            true => self.least_block_size,
            false => self.block_size,
        };
    }

    /// Whether such a request is refused here: it asks for what the node does not have or permit.
    pub fn refuses(&self, request: &Request) -> bool {
        self.refuse(request).is_some_and(|result| result < 0)
    }

    /// Answers a request that is wrong or has nothing to do without using the way: 0 or a negative errno.
    fn refuse(&self, request: &Request) -> Option<i32> {
        if request.op == Op::Flush {
            return None;
        }
        let end = request.offset.checked_add(request.length);
        if end.is_none_or(|end| end > self.node.length()) || self.is_too_fine(request) {
            return Some(-libc::EINVAL);
        }
        let is_allowed = match request.op {
            Op::Read | Op::BlockStatus => true,
            Op::Populate => self.may_populate,
            _ => self.may_write,
        };
        if !is_allowed {
            return Some(-libc::EROFS);
        }
        let is_void = request.op == Op::Discard && self.node.ignores_discard();
        (request.length == 0 || is_void).then_some(0)
    }

    /// Whether the request is not made of whole blocks.
    fn is_too_fine(&self, request: &Request) -> bool {
        let unit = match request.op {
            Op::Write | Op::WriteZeroes { .. } => self.write_size,
            _ => self.block_size,
        };
        (request.offset | request.length) & (unit - 1) != 0
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // First: a closed channel counts as quiet.
        drop(mem::replace(&mut self.way, Way::Absent));
        self.gate.close();
    }
}
