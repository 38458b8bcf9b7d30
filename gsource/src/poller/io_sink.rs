//! Finished requests of an io_uring, and the sinks that take them.
#![forbid(unsafe_code)]

/// A finished request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoCompletion {
    /// The number given to [`IoBatch::push`](crate::IoBatch::push).
    pub user: u64,
    /// What the system call would have returned, with `-errno` for errors.
    pub result: i32,
}

/// Takes finished requests, on the home thread, with no lock held.
pub trait IoSink: Send + Sync {
    /// Some requests have finished, in the order of the kernel.
    fn complete(&self, completions: &[IoCompletion]);
}
