//! What a stopped context keeps until its last handle is dropped, for programs that use it after the stop.
#![forbid(unsafe_code)]

use super::{ContextCore, QContext, lock, run};
use std::sync::atomic::Ordering;

/// What is done with the last handle.
pub(super) type LastWork = Box<dyn FnOnce() + Send>;

impl QContext {
    /// If a context is being stopped by the calling thread, calls `work` when its last handle is dropped. Otherwise calls it now.
    #[doc(hidden)] // for the C ABI
    pub fn call_after_stop(work: Box<dyn FnOnce() + Send>) {
        let stopping = run::current().filter(|core| core.stopping.load(Ordering::Acquire));
        // None if the last handle is dropped already.
        match stopping.and_then(|core| core.handle()) {
            Some(context) => lock(&context.core().remains).push(work),
            None => work(),
        }
    }
}

impl ContextCore {
    /// The last handle is dropped.
    pub(super) fn release_remains(&self) {
        let remains = std::mem::take(&mut *lock(&self.remains));
        for work in remains {
            work();
        }
    }
}
