//! Eventfds between KVM's bindings, which have a type of their own, and everybody else.
#![allow(unsafe_code)] // a raw fd changes its owner's type

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::{Error, Result};

/// A new eventfd that never blocks; `what` it is for stands in the message.
pub(super) fn new(what: &str) -> Result<EventFd> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
        .map_err(|error| Error::os(format!("cannot make the eventfd of {what}"), error))
}

/// The same fd as everybody else knows it.
pub(super) fn owned(event: EventFd) -> OwnedFd {
    // SAFETY: the fd was the eventfd's own, which has let go of it.
    unsafe { OwnedFd::from_raw_fd(event.into_raw_fd()) }
}
