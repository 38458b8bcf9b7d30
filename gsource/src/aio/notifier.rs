//! An event notifier: an eventfd signalled between threads, by KVM or by a vhost-user front end.
#![forbid(unsafe_code)]

use crate::Result;
use crate::eventfd::EventFd;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// An eventfd with the field's two verbs: signal and take.
///
/// Any thread may do either; signalling is async-signal-safe.
///
/// ```
/// let notifier = gsource::EventNotifier::new()?;
/// notifier.signal();
/// notifier.signal();
/// assert!(notifier.take());
/// assert!(!notifier.take());
/// # Ok::<(), gsource::Error>(())
/// ```
#[derive(Debug)]
pub struct EventNotifier(EventFd);

impl EventNotifier {
    /// A new, unsignalled notifier.
    ///
    /// # Errors
    /// The kernel's, when it gives no fd.
    pub fn new() -> Result<Self> {
        EventFd::new().map(EventNotifier)
    }

    /// Takes over an eventfd that came from elsewhere. It should be non-blocking, or `take` may block.
    pub fn from_fd(fd: OwnedFd) -> Self {
        EventNotifier(EventFd::from_fd(fd))
    }

    /// Signals; several signals before a take are one.
    pub fn signal(&self) {
        self.0.write();
    }

    /// Consumes the signal; true when there was one.
    pub fn take(&self) -> bool {
        self.0.read() > 0
    }
}

impl AsRawFd for EventNotifier {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for EventNotifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
