//! One flush of a node, outside of any queue: what was acknowledged becomes durable before a device goes away.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gsource::{AioContext, IoCompletion, IoSink};

use crate::Error;
use crate::block::{Channel, Finished, Node, Op, Submission};

/// Called once with 0 or a negative errno.
type Done = Box<dyn FnOnce(i32) + Send>;

#[derive(Default)]
struct State {
    channel: Option<Channel>,
    done: Option<Done>,
    /// Keeps the flush alive until it is finished: rings know their sinks only weakly.
    this: Option<Arc<Flush>>,
}

/// A flush under way. It owns itself until it is finished.
struct Flush {
    aio: AioContext,
    state: Mutex<State>,
}

/// Flushes `node` in the callbacks of `aio` and calls `done` with the result. Call on the home thread.
///
/// # Errors
/// No channel to the node could be opened; `done` comes back uncalled.
pub(super) fn flush<F: FnOnce(i32) + Send + 'static>(
    node: &Arc<Node>,
    aio: &AioContext,
    done: F,
) -> std::result::Result<(), (Error, F)> {
    let flush = Arc::new(Flush {
        aio: aio.clone(),
        state: Mutex::default(),
    });
    let sink: Arc<dyn IoSink> = Arc::<Flush>::clone(&flush);
    let mut channel = match Channel::open(node, aio, sink) {
        Ok(channel) => channel,
        Err(error) => return Err((error, done)),
    };
    let request = channel.request(Op::Flush, 0, 0);
    let submission = channel.submit(request);
    channel.flush_submissions();
    match submission {
        Submission::Done(finished) => done(finished.result),
        Submission::Queued => flush.wait(channel, Box::new(done)),
    }
    Ok(())
}

impl Flush {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Completions come on this very thread, later.
    fn wait(self: &Arc<Self>, channel: Channel, done: Done) {
        *self.state() = State {
            channel: Some(channel),
            done: Some(done),
            this: Some(Arc::clone(self)),
        };
    }
}

impl IoSink for Flush {
    fn complete(&self, completions: &[IoCompletion]) {
        let mut finished: Vec<Finished> = Vec::new();
        let (channel, done, this) = {
            let mut state = self.state();
            if let Some(channel) = &mut state.channel {
                channel.reap(completions, &mut finished);
            }
            if finished.is_empty() {
                return;
            }
            (state.channel.take(), state.done.take(), state.this.take())
        };
        let result = finished.first().map_or(0, |finished| finished.result);
        // The channel goes in an iteration of its own, as its completions are what got us here.
        self.aio.schedule_oneshot("device-flushed", move || {
            drop((channel, finished, this));
            if let Some(done) = done {
                done(result);
            }
        });
    }
}
