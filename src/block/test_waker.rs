//! A waker that counts its calls, and a poll with it, for the tests of futures.
#![forbid(unsafe_code)]

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};

/// The calls of a waker.
#[derive(Debug, Default)]
pub(super) struct WakeCount(AtomicUsize);

impl Wake for WakeCount {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl WakeCount {
    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// The calls since the last time.
    pub(super) fn take(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// Polls a future once; whether it has completed.
pub(super) fn is_ready(future: &mut (impl Future + Unpin), wakes: &Arc<WakeCount>) -> bool {
    let waker = Waker::from(Arc::clone(wakes));
    let mut context = Context::from_waker(&waker);
    Pin::new(future).poll(&mut context).is_ready()
}
