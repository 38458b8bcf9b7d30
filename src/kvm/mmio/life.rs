//! What a device's context and its guest's vcpus share: atomics, and nothing else.
//!
//! A life lasts from one reset of the device to the next. A reset gives the device a new one, so whatever a queue of the
//! old life still says is heard by nobody.
//!
//! # Invariants
//! 1. The bit in the interrupt status is set before the interrupt is raised, so the guest that is interrupted sees it. What
//!    led to the interrupt, the used ring, was published before the bit was set (Release, paired with the Acquire of the read).
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::virtio::notify::Signal;

/// Interrupt status: a queue has used a buffer.
pub(super) const USED_BUFFER: u32 = 1;
/// Interrupt status: the configuration, or the status, has changed.
pub(super) const CONFIG_CHANGE: u32 = 2;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Life {
    interrupt: AtomicU32,
    needs_reset: AtomicBool,
    line: Arc<dyn Signal>,
}

impl Life {
    pub(super) fn new(line: Arc<dyn Signal>) -> Arc<Life> {
        Arc::new(Life {
            interrupt: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
            line,
        })
    }

    pub(super) fn line(&self) -> &Arc<dyn Signal> {
        &self.line
    }

    pub(super) fn interrupt_status(&self) -> u32 {
        self.interrupt.load(Ordering::Acquire)
    }

    pub(super) fn acknowledge(&self, bits: u32) {
        self.interrupt.fetch_and(!bits, Ordering::AcqRel);
    }

    pub(super) fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    /// Asks for a reset without an interrupt, on a vcpu's thread: the driver is looking.
    pub(super) fn give_up(&self) {
        self.needs_reset.store(true, Ordering::Release);
        self.interrupt.fetch_or(CONFIG_CHANGE, Ordering::AcqRel);
    }

    fn interrupt(&self, bit: u32) {
        self.interrupt.fetch_or(bit, Ordering::AcqRel);
        self.line.signal();
    }
}

/// A queue's call.
#[derive(Debug)]
pub(super) struct Used(pub(super) Arc<Life>);

impl Signal for Used {
    fn signal(&self) {
        self.0.interrupt(USED_BUFFER);
    }
}

/// What a queue signals when the guest broke it: from then on the device needs a reset.
#[derive(Debug)]
pub(super) struct Trouble(pub(super) Arc<Life>);

impl Signal for Trouble {
    fn signal(&self) {
        if !self.0.needs_reset.swap(true, Ordering::AcqRel) {
            self.0.interrupt(CONFIG_CHANGE);
        }
    }
}

/// One start of a queue, until it has stopped.
#[derive(Debug, Default)]
pub(super) struct Run {
    quiet: AtomicBool,
}

impl Run {
    /// Whether the device has let go of the queue.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Acquire)
    }

    pub(super) fn set_quiet(&self) {
        self.quiet.store(true, Ordering::Release);
    }
}
