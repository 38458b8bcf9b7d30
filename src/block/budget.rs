//! How much a batch may do on the home thread itself.
#![forbid(unsafe_code)]

/// How many bytes a batch may still move on the home thread, so that neighbours on it get their turn.
#[derive(Debug)]
pub(super) struct Budget(u64);

impl Budget {
    /// What a batch begins with.
    pub(super) const BATCH: Budget = Budget(256 * 1024);

    #[inline]
    pub(super) fn is_spent(&self) -> bool {
        self.0 == 0
    }

    /// Counts bytes that were moved.
    #[inline]
    pub(super) fn charge(&mut self, bytes: u64) {
        self.0 = self.0.saturating_sub(bytes);
    }
}
