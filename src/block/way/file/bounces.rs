//! The bounce buffers of one channel, few and small.
#![forbid(unsafe_code)]

use crate::block::bounce::Bounce;

/// The most buffers of one channel.
const COUNT_MAX: usize = 32;

/// The buffers of one channel.
#[derive(Debug, Default)]
pub(super) struct Bounces {
    free: Vec<Bounce>,
    made: usize,
}

impl Bounces {
    /// A buffer, unless too many are out.
    pub(super) fn take(&mut self) -> Option<Bounce> {
        if let Some(bounce) = self.free.pop() {
            return Some(bounce);
        }
        if self.made == COUNT_MAX {
            return None;
        }
        self.made += 1;
        Some(Bounce::new())
    }

    pub(super) fn put(&mut self, bounce: Option<Bounce>) {
        self.free.extend(bounce);
    }
}
