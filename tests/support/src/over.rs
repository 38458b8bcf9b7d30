//! Work beside a test that ends when the test has done its part, also when that has failed: otherwise a failed test would hang.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the work is to end.
#[derive(Debug, Default)]
pub struct Over(AtomicBool);

/// Ends the work when it is dropped.
#[derive(Debug)]
#[must_use = "the work ends when this is dropped"]
pub struct OverWhenDropped<'a>(&'a Over);

impl Over {
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub fn when_dropped(&self) -> OverWhenDropped<'_> {
        OverWhenDropped(self)
    }
}

impl Drop for OverWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}
