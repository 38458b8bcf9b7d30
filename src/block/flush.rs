//! One flush of a node by itself: what was acknowledged becomes durable before a device goes away.
#![forbid(unsafe_code)]

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gsource::AioContext;

use super::graph::EdgeTarget;
use super::{Channel, ChannelOwner, Node, Op, Permissions, Submission};
use crate::{Error, Result};

/// A flush under way.
struct Flush {
    aio: AioContext,
    state: Mutex<FlushState>,
}

#[derive(Default)]
struct FlushState {
    channel: Option<Channel>,
    done: Option<Box<dyn FnOnce(Result<()>) + Send>>,
    /// Keeps the flush alive until it is finished, because its channel holds it weakly.
    this: Option<Arc<Flush>>,
}

/// Flushes `node` in the callbacks of `aio` and calls `done` with the result, possibly before this returns. Call on the
/// home thread.
pub fn flush(node: &Arc<Node>, aio: &AioContext, done: impl FnOnce(Result<()>) + Send + 'static) {
    let flush = Arc::new(Flush {
        aio: aio.clone(),
        state: Mutex::default(),
    });
    let owner: Arc<dyn ChannelOwner> = Arc::<Flush>::clone(&flush);
    let owner = Arc::downgrade(&owner);
    let mut channel = Channel::to_target(&EdgeTarget::new(node), Permissions::NONE, aio, owner);
    // The device goes: it does not wait for a server that may come back.
    channel.set_hurried(true);
    let request = channel.request(Op::Flush, 0, 0);
    if let Submission::Done(finished) = channel.submit(request) {
        return done(outcome(finished.result));
    }
    *flush.state() = FlushState {
        channel: Some(channel),
        done: Some(Box::new(done)),
        this: Some(Arc::clone(&flush)),
    };
    flush
        .state()
        .channel
        .iter_mut()
        .for_each(Channel::flush_submissions);
}

fn outcome(result: i32) -> Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(Error::os(
            "fdatasync",
            io::Error::from_raw_os_error(-result),
        )),
    }
}

impl Flush {
    fn state(&self) -> MutexGuard<'_, FlushState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChannelOwner for Flush {
    fn ready(&self) {
        let mut finished = Vec::new();
        let mut state = self.state();
        if let Some(channel) = &mut state.channel {
            channel.reap(&mut finished);
        }
        let Some(result) = finished.first().map(|finished| finished.result) else {
            return;
        };
        let FlushState {
            channel,
            done,
            this,
        } = std::mem::take(&mut *state);
        drop(state);
        // The channel goes in an iteration of its own, because it has called us.
        self.aio.schedule_oneshot("block-flushed", move || {
            drop((channel, finished, this));
            if let Some(done) = done {
                done(outcome(result));
            }
        });
    }
}
