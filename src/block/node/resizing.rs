//! A resize as a future.
//!
//! Used by tasks. The resize runs on a thread of its own and not on a worker of a pool: it may wait for requests that need the worker.
#![forbid(unsafe_code)]

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::thread;

use super::*;

/// A resize that has begun. It goes on if this is dropped.
#[derive(Debug)]
pub(crate) struct Resizing(Arc<Mutex<ResizeOutcome>>);

#[derive(Debug, Default)]
struct ResizeOutcome {
    result: Option<Result<()>>,
    waker: Option<Waker>,
}

/// The thread's end of a resize. If it is dropped without a result, there is an error.
struct Resizer(Arc<Mutex<ResizeOutcome>>);

impl Node {
    /// Makes the node longer or shorter as [`Node::set_length`] does, whose errors come as the future's result.
    pub(crate) fn resize(self: &Arc<Node>, length: u64) -> Resizing {
        let outcome = Arc::default();
        let (node, resizer) = (Arc::clone(self), Resizer(Arc::clone(&outcome)));
        let thread = thread::Builder::new().name("block-resize".to_owned());
        let started = thread.spawn(move || {
            let resized = node.set_length(length);
            // The node may close here, before others are said to go on.
            drop(node);
            resizer.end(resized);
        });
        // Without the thread, the resizer is dropped.
        drop(started);
        Resizing(outcome)
    }
}

impl Resizer {
    fn end(&self, result: Result<()>) {
        let mut outcome = lock(&self.0);
        outcome.result.get_or_insert(result);
        let waker = outcome.waker.take();
        drop(outcome);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Resizer {
    fn drop(&mut self) {
        let message = "the thread of the resize has ended";
        self.end(Err(Error::new(ErrorKind::Panicked, message)));
    }
}

impl Future for Resizing {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let mut outcome = lock(&self.0);
        match outcome.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                outcome.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
