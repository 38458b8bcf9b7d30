//! A disk queue's life: started by the transport, kicked by the guest, stopped when quiet.
//!
//! Used by [`super::Blk`]. What happens in an iteration is [`super::batch`]'s business; here it is called, and what
//! it asks for is done.
//!
//! # Threads
//! The phase is behind one mutex, which the home takes once per batch. Others take it to start, to stop and to
//! change fds, so it is practically never contended. No callback of others runs under it.
//!
//! # Invariants
//! 1. From start until it is quiet after a stop, the queue is kept alive by the phase's `hold`. So the memory that
//!    requests in flight use, which the phase owns, outlives them whoever drops what.
//! 2. Channel and kick handler belong to the queue's own AioContext.
#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use gsource::{AioContext, Bh, FdHandler};

use super::batch::{Next, Running};
use super::stats::{Published, QueueStats, Totals};
use super::{QUEUE_SIZE_MAX, Shared};
use crate::block::{Channel, ChannelOwner};
use crate::virtio::notify::{KickFd, Signal};
use crate::virtio::queue::{Broken, Virtqueue};
use crate::virtio::{QueueSetup, Stopped};
use crate::{Error, ErrorKind, Result};

/// One queue of a disk.
#[derive(Debug)]
pub(super) struct Queue {
    shared: Arc<Shared>,
    aio: AioContext,
    /// Continues a batch that stopped to let neighbours have their turn.
    resume: Bh,
    published: Arc<Published>,
    phase: Mutex<Phase>,
}

#[derive(Debug, Default)]
struct Phase {
    /// The totals, kept over stops.
    totals: Totals,
    running: Option<Box<Running>>,
    kick: Option<KickFd>,
    stopping: Stopping,
    /// See invariant 1.
    hold: Option<Arc<Queue>>,
}

/// Whoever waits for the queue to be quiet; asked to stop if there is anybody.
#[derive(Default)]
struct Stopping(Vec<Stopped>);

impl std::fmt::Debug for Stopping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stopping({})", self.0.len())
    }
}

impl Queue {
    pub(super) fn new(shared: &Arc<Shared>, aio: AioContext) -> Arc<Queue> {
        Arc::new_cyclic(|weak| {
            let weak = Weak::clone(weak);
            let resume = move || with(&weak, Queue::serve).unwrap_or(());
            let resume = aio.bh("virtio-blk", resume);
            let published = Arc::default();
            let totals = Totals::new(&published);
            Queue {
                shared: Arc::clone(shared),
                aio,
                resume,
                published,
                phase: Mutex::new(Phase {
                    totals,
                    ..Phase::default()
                }),
            }
        })
    }

    pub(super) fn stats(&self) -> QueueStats {
        self.published.read()
    }

    pub(super) fn broken(&self) -> Option<Broken> {
        self.lock().running.as_ref()?.broken()
    }

    /// See [`crate::virtio::VirtioDevice::start_queue`].
    pub(super) fn start(self: &Arc<Self>, setup: QueueSetup) -> Result<()> {
        if setup.size > QUEUE_SIZE_MAX {
            let message = format!("queue size {} is above {QUEUE_SIZE_MAX}", setup.size);
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let virtqueue = Virtqueue::new(&setup)?;
        let kick = setup.kick.map(KickFd::new).transpose()?;
        let mut phase = self.lock();
        if phase.running.is_some() {
            return Err(Error::new(ErrorKind::Busy, "the queue is running already"));
        }
        if let Some(kick) = &kick {
            self.watch(kick)?;
        }
        phase.kick = kick;
        phase.running = Some(Box::new(Running::new(virtqueue, setup.call, setup.err)));
        phase.hold = Some(Arc::clone(self));
        drop(phase);
        let queue = Arc::clone(self);
        self.aio
            .schedule_oneshot("virtio-blk-start", move || queue.begin());
        Ok(())
    }

    fn watch(self: &Arc<Self>, kick: &KickFd) -> Result<()> {
        let [kicked, polled, ready, switched] = [(); 4].map(|()| Arc::downgrade(self));
        let handler = FdHandler::new()
            .edge_triggered()
            .on_read(move || with(&kicked, Queue::kicked).unwrap_or(()))
            .io_poll(
                move || with(&polled, Queue::has_work).unwrap_or(false),
                move || with(&ready, Queue::serve).unwrap_or(()),
            )
            .io_poll_switch(move |polling| {
                with(&switched, |queue| queue.set_polling(polling)).unwrap_or(());
            });
        self.aio.set_fd_handler(kick.as_raw_fd(), handler)
    }

    fn unwatch(&self, kick: Option<KickFd>) {
        if let Some(kick) = kick {
            self.aio.remove_fd_handler(kick.as_raw_fd());
        }
    }

    /// On the home: opens the channel and takes what the guest has put into the ring so far.
    fn begin(self: &Arc<Self>) {
        let this: Arc<dyn ChannelOwner> = Arc::<Queue>::clone(self);
        let channel = Channel::open(&self.shared.edge, &self.aio, Arc::downgrade(&this));
        if let Some(running) = &mut self.lock().running {
            running.set_channel(channel);
        }
        self.serve();
    }

    fn kicked(&self) {
        self.lock().totals.now.kicks += 1;
        self.serve();
    }

    /// For adaptive polling: whether the home looks by itself.
    fn set_polling(&self, polling: bool) {
        if let Some(running) = &mut self.lock().running {
            running.set_polling(polling);
        }
    }

    /// For adaptive polling: whether a batch would find something.
    fn has_work(&self) -> bool {
        let phase = self.lock();
        let running = phase.running.as_ref();
        phase.stopping.0.is_empty() && running.is_some_and(|running| running.has_work())
    }

    /// One batch, on the home.
    fn serve(&self) {
        self.batch(true);
    }

    fn batch(&self, fresh: bool) {
        let mut guard = self.lock();
        let phase = &mut *guard;
        let Some(running) = &mut phase.running else {
            return;
        };
        let stopping = !phase.stopping.0.is_empty();
        let next = running.batch(&self.shared, &mut phase.totals, stopping, fresh);
        phase.totals.show();
        match next {
            Next::Wait => {}
            Next::Again => self.resume.schedule(),
            Next::Broken => {
                let kick = phase.kick.take();
                drop(guard);
                self.unwatch(kick);
            }
            Next::Quiet => self.finish_stop(guard),
        }
    }

    /// See [`crate::virtio::VirtioDevice::stop_queue`].
    pub(super) fn stop(self: &Arc<Self>, done: Stopped) {
        let mut phase = self.lock();
        if phase.running.is_none() {
            drop(phase);
            return done(0);
        }
        phase.stopping.0.push(done);
        let kick = phase.kick.take();
        drop(phase);
        self.unwatch(kick);
        let queue = Arc::clone(self);
        self.aio
            .schedule_oneshot("virtio-blk-stop", move || queue.serve());
    }

    /// Ends a quiet queue. The channel goes in an iteration of its own, as its completions may be what got us here.
    fn finish_stop(&self, mut phase: MutexGuard<'_, Phase>) {
        let running = phase.running.take();
        let hold = phase.hold.take();
        let waiting = std::mem::take(&mut phase.stopping.0);
        drop(phase);
        self.aio.schedule_oneshot("virtio-blk-stopped", move || {
            let index = running.as_ref().map_or(0, |running| running.next_avail());
            drop(running);
            for done in waiting {
                done(index);
            }
            drop(hold);
        });
    }

    /// See [`crate::virtio::VirtioDevice::set_call`].
    pub(super) fn set_call(&self, call: Option<Arc<dyn Signal>>) {
        if let Some(running) = &mut self.lock().running {
            running.set_call(call);
        }
    }

    /// See [`crate::virtio::VirtioDevice::set_kick`].
    pub(super) fn set_kick(self: &Arc<Self>, kick: Option<OwnedFd>) -> Result<()> {
        let kick = kick.map(KickFd::new).transpose()?;
        let mut phase = self.lock();
        let accepts = phase.stopping.0.is_empty()
            && phase
                .running
                .as_ref()
                .is_some_and(|running| running.broken().is_none());
        if !accepts {
            return Ok(());
        }
        if let Some(kick) = &kick {
            self.watch(kick)?;
        }
        let old = std::mem::replace(&mut phase.kick, kick);
        // A handler that goes away is not told that polling has ended.
        if let Some(running) = &mut phase.running {
            running.set_polling(false);
        }
        drop(phase);
        self.unwatch(old);
        self.resume.schedule();
        Ok(())
    }

    /// The phase is consistent even if a batch panicked: its queue then just stays behind.
    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Callbacks hold queues weakly: it is `hold` that keeps a running one (invariant 1).
fn with<T>(queue: &Weak<Queue>, act: impl FnOnce(&Queue) -> T) -> Option<T> {
    queue.upgrade().map(|queue| act(&queue))
}

impl ChannelOwner for Queue {
    fn ready(&self) {
        self.batch(false);
    }
}
