//! The kernel's eventfd(2) as the loop uses it: created non-blocking, written to wake, read only where a reader needs it.
#![allow(unsafe_code)] // eventfd(2), read(2), write(2)

use crate::{Error, Result};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// An owned eventfd.
#[derive(Debug)]
pub(crate) struct EventFd(OwnedFd);

impl EventFd {
    /// A new non-blocking, close-on-exec eventfd with counter 0.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(Error::last_os("cannot create an eventfd"));
        }
        // SAFETY: the kernel just gave us this fd.
        Ok(EventFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Takes over an fd that the caller says is an eventfd.
    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        EventFd(fd)
    }

    /// Adds 1 to the counter. Signal-safe. A full counter is left alone: its readers are awake already.
    pub(crate) fn write(&self) {
        let one = 1u64;
        loop {
            // SAFETY: the buffer is 8 readable bytes.
            let written = unsafe { libc::write(self.as_raw_fd(), (&raw const one).cast(), 8) };
            if written >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                break;
            }
        }
        #[cfg(shuttle)]
        crate::kernel_model::change();
    }

    /// Reads and clears the counter; 0 when it was clear.
    pub(crate) fn read(&self) -> u64 {
        let mut count = 0u64;
        loop {
            // SAFETY: the buffer is 8 writable bytes.
            let read = unsafe { libc::read(self.as_raw_fd(), (&raw mut count).cast(), 8) };
            if read == 8 {
                return count;
            }
            if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                return 0;
            }
        }
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
