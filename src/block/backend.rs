//! A node, as tasks use it: QEMU's `BlockBackend`.
//!
//! Used by exports, jobs, and whatever else runs as tasks on an AioContext (`AioContext::spawn_local`). Its functions are
//! futures. Many may be in flight at once, of one task or of several.
//!
//! * A backend has a channel of its own, so it is drained as a device's queue is.
//! * Offsets and lengths are bytes, also where the node has larger blocks ([`bytes`]).
//! * Memory is an [`IoBuffer`], which a request owns until it is back. Memory of other kinds goes with
//!   [`BlockBackend::request`] and [`BlockBackend::submit`].
//! * A future that is dropped takes nothing back that has started: the request goes on and keeps its memory.
//!
//! # Threads
//! The futures are polled on the home of the backend's AioContext. Handles may be dropped anywhere.
//!
//! # Invariants
//! 1. The channel is dropped when no request is in flight: with the last handle, or later when the last request is back. Until
//!    then the core keeps itself.
//! 2. No waker is called with the lock held.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;

use gsource::AioContext;

use super::channel::Channel;
use super::gate::{ChannelOwner, Drained};
use super::graph::{Edge, EdgeTarget};
use super::io_buffer::IoBuffer;
use super::node::Node;
use super::partial_write::PartialWriter;
use super::request::{Finished, Op, Request};
use super::status::BlockStatus;
use super::transfer::{Carrier, Slots, Transfer};

mod bytes;
#[cfg(test)]
mod tests;

/// A node, as tasks use it; see the head of this file. Clones are the same.
#[derive(Clone, Debug)]
pub struct BlockBackend(Arc<LastHandle>);

/// What ends the core when it goes.
#[derive(Debug)]
struct LastHandle(Arc<Core>);

struct Core {
    target: Arc<EdgeTarget>,
    aio: AioContext,
    state: Mutex<BackendState>,
    /// Set when it has written parts of blocks.
    partial_writer: Mutex<Option<PartialWriter>>,
}

#[derive(Default)]
struct BackendState {
    /// Present until the end.
    channel: Option<Channel>,
    slots: Slots,
    /// Tasks that have done as much at once as they may.
    spent: Vec<Waker>,
    /// Set when there are requests in flight and no handle any more.
    this: Option<Arc<Core>>,
}

impl BlockBackend {
    /// Opens a way to the node of `edge`, for tasks on `aio` and what the edge's permissions allow.
    pub fn open(edge: &Edge, aio: &AioContext) -> BlockBackend {
        BlockBackend::open_through(edge, aio, Channel::open)
    }

    /// The same for work on nodes that are drained: drains of nodes do not hold it. It ends before the nodes change.
    pub(super) fn for_errand(edge: &Edge, aio: &AioContext) -> BlockBackend {
        BlockBackend::open_through(edge, aio, Channel::for_errand)
    }

    fn open_through(
        edge: &Edge,
        aio: &AioContext,
        open: fn(&Edge, &AioContext, Weak<dyn ChannelOwner>) -> Channel,
    ) -> BlockBackend {
        let core = Arc::new(Core {
            target: Arc::clone(edge.target()),
            aio: aio.clone(),
            state: Mutex::default(),
            partial_writer: Mutex::default(),
        });
        let owner: Arc<dyn ChannelOwner> = Arc::<Core>::clone(&core);
        let owner: Weak<dyn ChannelOwner> = Arc::downgrade(&owner);
        let channel = open(edge, aio, owner);
        // If a drain that held it has ended, the home may have looked before the channel is there.
        core.state().channel.insert(channel).call_owner_later();
        BlockBackend(Arc::new(LastHandle(core)))
    }

    /// The node, which may be another one after a drain.
    pub fn node(&self) -> Arc<Node> {
        self.core().target.node()
    }

    /// The AioContext whose tasks use it.
    pub fn aio(&self) -> &AioContext {
        &self.core().aio
    }

    /// How many requests are in flight.
    pub fn in_flight(&self) -> usize {
        let state = self.core().state();
        state.channel.as_ref().map_or(0, Channel::in_flight)
    }

    /// Holds new requests back, and calls `quiet` on the home when those that have passed have come back; see
    /// [`Channel::drain`].
    pub fn drain(&self, quiet: impl FnOnce() + Send + 'static) -> Option<Drained> {
        let mut state = self.core().state();
        state.channel.as_mut().map(|channel| channel.drain(quiet))
    }

    /// Lets the requests in flight, and those that follow, come back without waits that are not for the data; see
    /// [`Channel::set_hurried`].
    pub fn hurry(&self) {
        if let Some(channel) = &mut self.core().state().channel {
            channel.set_hurried(true);
        }
    }

    /// Reads as many bytes as the buffer is long. Gives the buffer back.
    pub async fn read(&self, offset: u64, buffer: IoBuffer) -> (io::Result<()>, IoBuffer) {
        bytes::read(self, offset, buffer).await
    }

    /// Writes the buffer and gives it back. With `fua` it is durable then.
    pub async fn write(
        &self,
        offset: u64,
        buffer: IoBuffer,
        fua: bool,
    ) -> (io::Result<()>, IoBuffer) {
        let (mut result, buffer) = bytes::write(self, offset, buffer).await;
        if fua && result.is_ok() {
            result = self.flush().await;
        }
        (result, buffer)
    }

    /// Makes bytes zero; with `unmap` their space may be given back. With `fua` it is durable then.
    ///
    /// # Errors
    /// The host's.
    pub async fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        unmap: bool,
        fua: bool,
    ) -> io::Result<()> {
        bytes::write_zeroes(self, offset, length, unmap, false).await?;
        match fua {
            true => self.flush().await,
            false => Ok(()),
        }
    }

    /// As [`BlockBackend::write_zeroes`], but only if the host can do that without writing them.
    ///
    /// # Errors
    /// `ENOTSUP` if it cannot; the host's.
    pub async fn write_zeroes_fast(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        bytes::write_zeroes(self, offset, length, unmap, true).await
    }

    /// Gives space back, as far as the host can. What the bytes are then is not said.
    ///
    /// # Errors
    /// The host's.
    pub async fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        bytes::discard(self, offset, length).await
    }

    /// Makes durable what was written before.
    ///
    /// # Errors
    /// The host's.
    pub async fn flush(&self) -> io::Result<()> {
        let request = self.request(Op::Flush, 0);
        self.finish(request).await
    }

    /// What is known about a range, or about its beginning, without reading it.
    ///
    /// # Errors
    /// The range is empty or goes beyond the end (`EINVAL`); the host's.
    pub async fn block_status(&self, offset: u64, length: u64) -> io::Result<BlockStatus> {
        bytes::block_status(self, offset, length).await
    }

    /// A request without memory.
    pub fn request(&self, op: Op, offset: u64) -> Box<Request> {
        let mut state = self.core().state();
        match &mut state.channel {
            Some(channel) => channel.request(op, offset, 0),
            None => unreachable!("the channel stays while there is a handle"),
        }
    }

    /// Takes a request back, for [`BlockBackend::request`].
    pub fn recycle(&self, request: Box<Request>) {
        if let Some(channel) = &mut self.core().state().channel {
            channel.recycle(request);
        }
    }

    /// Carries out a request of whole blocks. It starts with the first poll of the future. If that is dropped, the request goes
    /// on; so memory that its maker has lent it must stay until it is back.
    pub fn submit(&self, request: Box<Request>) -> impl Future<Output = Finished> + Send + use<> {
        Transfer::new(self.clone(), request)
    }

    /// Carries out a request whose memory is not needed any more.
    async fn finish(&self, request: Box<Request>) -> io::Result<()> {
        let finished = self.submit(request).await;
        self.recycle(finished.request);
        result_of(finished.result)
    }

    /// Lets the node take writes of parts of blocks, and all writers of these blocks wait for each other.
    async fn order_partial_writes(&self) {
        let node = self.node().of_partial_writes();
        self.core().become_partial_writer(&node);
        PartialWriter::begin(&node).await;
    }

    fn core(&self) -> &Core {
        &self.0.0
    }
}

fn result_of(result: i32) -> io::Result<()> {
    match result {
        0 => Ok(()),
        result => Err(io::Error::from_raw_os_error(result.saturating_neg())),
    }
}

impl Carrier for BlockBackend {
    fn start(&self, request: Box<Request>, waker: &Waker) -> Result<Finished, usize> {
        self.core().state().start(request, waker)
    }

    fn collect(&self, index: usize, waker: &Waker) -> Option<Finished> {
        self.core().state().slots.collect(index, waker)
    }

    fn abandon(&self, index: usize) {
        self.core().state().slots.abandon(index);
    }
}

impl Core {
    /// The state is consistent after every single operation on it.
    fn state(&self) -> MutexGuard<'_, BackendState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn partial_writer(&self) -> MutexGuard<'_, Option<PartialWriter>> {
        let lock = self.partial_writer.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes it a writer of parts of blocks of `node`, and of no other node.
    fn become_partial_writer(&self, node: &Arc<Node>) {
        let mut writer = self.partial_writer();
        let is_known = |known: &PartialWriter| known.node().id() == node.id();
        let before = match writer.as_ref().is_some_and(is_known) {
            true => None,
            false => writer.replace(PartialWriter::new(node)),
        };
        drop(writer);
        // Outside of the lock: queues may open their ways anew.
        drop(before);
    }
}

impl BackendState {
    fn start(&mut self, request: Box<Request>, waker: &Waker) -> Result<Finished, usize> {
        let Some(channel) = &mut self.channel else {
            unreachable!("the channel stays while there is a handle")
        };
        let sent = self.slots.send(request, waker, |new| channel.submit(new));
        channel.flush_submissions();
        match sent {
            // Neighbours on the same home get their turn before the task goes on.
            Ok(finished) if channel.is_spent() => {
                self.spent.push(waker.clone());
                channel.call_owner_later();
                Err(self.slots.keep(finished))
            }
            sent => sent,
        }
    }

    /// Takes what has finished. Returns the wakers of the tasks that wait for it.
    fn reap(&mut self) -> Vec<Waker> {
        let mut woken = mem::take(&mut self.spent);
        let mut finished = Vec::new();
        if let Some(channel) = &mut self.channel {
            channel.begin_batch();
            channel.reap(&mut finished);
        }
        let settled = finished.into_iter().map(|done| self.slots.settle(done));
        woken.extend(settled.flatten());
        woken
    }

    fn is_idle(&self) -> bool {
        let in_flight = self.channel.as_ref().map_or(0, Channel::in_flight);
        in_flight == 0
    }
}

impl ChannelOwner for Core {
    fn ready(&self) {
        let mut state = self.state();
        let woken = state.reap();
        let over = match state.this.is_some() && state.is_idle() {
            true => Some((state.channel.take(), state.this.take())),
            false => None,
        };
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        if let Some(over) = over {
            // In an iteration of its own, because the channel has called us.
            self.aio
                .schedule_oneshot("block-backend-end", move || drop(over));
        }
    }
}

impl Drop for LastHandle {
    fn drop(&mut self) {
        let mut state = self.0.state();
        let channel = match state.is_idle() {
            true => state.channel.take(),
            false => {
                state.this = Some(Arc::clone(&self.0));
                None
            }
        };
        drop(state);
        drop(channel);
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("node", &self.target.node().name())
            .finish_non_exhaustive()
    }
}
