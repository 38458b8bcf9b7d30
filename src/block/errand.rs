//! Work on nodes that is no request: to open an image, to write its metadata back before it is closed.
//!
//! Used by drivers, on threads that may wait. The work is a future. It runs on an AioContext of its own, which nothing else
//! uses, so no other callback runs meanwhile.
//!
//! # Threads
//! Any thread but the home of a queue whose requests the work waits for.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};

use gsource::{AioContext, Wait};

use super::gate::{ChannelOwner, Gate};
use super::way::task::NewLayer;
use crate::Result;

thread_local! {
    static IS_HURRIED: Cell<bool> = const { Cell::new(false) };
}

/// Does `work`, whose errands on this thread have no waits that are not for the data, such as those for a lost server.
pub(super) fn hurried<T>(work: impl FnOnce() -> T) -> T {
    let before = IS_HURRIED.replace(true);
    let done = work();
    IS_HURRIED.set(before);
    done
}

/// No channel: the errand reaps by itself.
struct NoChannel;

impl ChannelOwner for NoChannel {
    fn ready(&self) {}
}

/// Makes the loop go round.
struct ErrandWake(Arc<Gate>);

impl Wake for ErrandWake {
    fn wake(self: Arc<Self>) {
        self.0.schedule();
    }
}

/// Runs the future that `work` makes to its end, and blocks the thread.
///
/// # Errors
/// `Os` if there can be no AioContext.
pub(super) fn run<F: Future>(work: impl FnOnce(&mut NewLayer) -> F) -> Result<F::Output> {
    let aio = AioContext::new()?;
    let owner: Weak<NoChannel> = Weak::new();
    let gate = Gate::for_errand(&aio, owner);
    let is_hurried = IS_HURRIED.get();
    gate.set_hurried(is_hurried);
    let mut layer = NewLayer::new(&gate);
    let mut work = pin!(work(&mut layer));
    let waker = Waker::from(Arc::new(ErrandWake(Arc::clone(&gate))));
    loop {
        if let Poll::Ready(output) = work.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Ok(output);
        }
        layer.flush_submissions();
        if is_hurried {
            // A way looks at that when it is reaped, and nothing else may wake it.
            layer.reap();
        }
        aio.poll(Wait::Block)?;
        layer.reap();
    }
}
