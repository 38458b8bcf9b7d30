//! Eventfds as KVM's bindings take them, and as the rest of the crate does.
#![allow(unsafe_code)] // makes an owned fd of a raw one

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::{Error, Result};

/// A new non-blocking eventfd. `what` is its purpose, for the error message.
pub(super) fn new(what: &str) -> Result<EventFd> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
        .map_err(|error| Error::os(format!("cannot make the eventfd of {what}"), error))
}

/// The same fd, as the standard library has it.
pub(super) fn owned(event: EventFd) -> OwnedFd {
    // SAFETY: `into_raw_fd` gave up the ownership of the fd.
    unsafe { OwnedFd::from_raw_fd(event.into_raw_fd()) }
}
