//! What a device's context and its guest's vcpus share: atomics, and one lock that is held for a copy.
//!
//! An [`InterruptStatus`] lasts from one reset of the device to the next. A reset makes a new one, so signals of queues that
//! were started before the reset go to the old one, which no guest reads any more.
//!
//! # Invariants
//! 1. The bit in the interrupt status is set before the interrupt is raised, so the guest that is interrupted sees it. What
//!    led to the interrupt, the used ring, was published before the bit was set (Release, paired with the Acquire of the read).
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::virtio::notify::Signal;

/// Interrupt status: a queue has used a buffer.
pub(super) const USED_BUFFER: u32 = 1;
/// Interrupt status: the configuration, or the status, has changed.
pub(super) const CONFIG_CHANGE: u32 = 2;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct InterruptStatus {
    bits: AtomicU32,
    needs_reset: AtomicBool,
    /// The driver has set DRIVER_OK.
    is_operating: AtomicBool,
    line: Arc<dyn Signal>,
}

impl InterruptStatus {
    pub(super) fn new(line: Arc<dyn Signal>) -> Arc<InterruptStatus> {
        Arc::new(InterruptStatus {
            bits: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
            is_operating: AtomicBool::new(false),
            line,
        })
    }

    pub(super) fn line(&self) -> &Arc<dyn Signal> {
        &self.line
    }

    pub(super) fn bits(&self) -> u32 {
        self.bits.load(Ordering::Acquire)
    }

    pub(super) fn acknowledge(&self, bits: u32) {
        self.bits.fetch_and(!bits, Ordering::AcqRel);
    }

    pub(super) fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    /// The driver has set DRIVER_OK: from now on it hears of changed configuration.
    pub(super) fn begin_operation(&self) {
        self.is_operating.store(true, Ordering::Release);
    }

    /// Asks for a reset without an interrupt, on a vcpu's thread: the driver is reading registers anyway.
    pub(super) fn ask_for_reset(&self) {
        self.needs_reset.store(true, Ordering::Release);
        self.bits.fetch_or(CONFIG_CHANGE, Ordering::AcqRel);
    }

    fn interrupt(&self, bit: u32) {
        self.bits.fetch_or(bit, Ordering::AcqRel);
        self.line.signal();
    }
}

/// A queue's call.
#[derive(Debug)]
pub(super) struct UsedBufferSignal(pub(super) Arc<InterruptStatus>);

impl Signal for UsedBufferSignal {
    fn signal(&self) {
        self.0.interrupt(USED_BUFFER);
    }
}

/// What a queue signals when the guest broke it: from then on the device needs a reset.
#[derive(Debug)]
pub(super) struct BrokenQueueSignal(pub(super) Arc<InterruptStatus>);

impl Signal for BrokenQueueSignal {
    fn signal(&self) {
        if !self.0.needs_reset.swap(true, Ordering::AcqRel) {
            self.0.interrupt(CONFIG_CHANGE);
        }
    }
}

/// What the device signals when its configuration space has changed. Lasts as long as the transport.
#[derive(Debug)]
pub(super) struct ConfigSignal {
    generation: AtomicU32,
    /// The present one. Locked for a copy or an exchange only, so a vcpu never waits for a context's work.
    status: Mutex<Arc<InterruptStatus>>,
}

impl ConfigSignal {
    pub(super) fn new(status: &Arc<InterruptStatus>) -> Arc<ConfigSignal> {
        Arc::new(ConfigSignal {
            generation: AtomicU32::new(0),
            status: Mutex::new(Arc::clone(status)),
        })
    }

    /// Counts changes: a driver that reads two fields reads this before and after.
    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// The device was reset.
    pub(super) fn replace_status(&self, status: &Arc<InterruptStatus>) {
        let old = std::mem::replace(&mut *self.lock(), Arc::clone(status));
        drop(old);
    }

    fn lock(&self) -> MutexGuard<'_, Arc<InterruptStatus>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Signal for ConfigSignal {
    fn signal(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        let status = Arc::clone(&self.lock());
        if status.is_operating.load(Ordering::Acquire) {
            status.interrupt(CONFIG_CHANGE);
        }
    }
}

/// One start of a queue, until it has stopped.
#[derive(Debug, Default)]
pub(super) struct QueueRun {
    quiet: AtomicBool,
}

impl QueueRun {
    /// Whether the queue has stopped, so that its memory is the guest's again.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Acquire)
    }

    pub(super) fn set_quiet(&self) {
        self.quiet.store(true, Ordering::Release);
    }
}
