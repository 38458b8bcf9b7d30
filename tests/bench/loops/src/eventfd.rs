//! Eventfds, as all the loops get them.
#![allow(unsafe_code)] // eventfd(2), read(2) and write(2) without what std puts around them

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use super::Result;

/// The idle ones have higher numbers than what loops make for themselves; GLib's poll would be slower otherwise.
const IDLE_FROM: RawFd = 8_000;

#[derive(Debug)]
pub(crate) struct EventFd(OwnedFd);

impl EventFd {
    pub(crate) fn new() -> Result<EventFd> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error().into());
        }
        // SAFETY: the kernel just gave us this fd.
        Ok(EventFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The same with a number from `least` on.
    fn above(&self, least: RawFd) -> Result<EventFd> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) };
        if fd < 0 {
            return Err(io::Error::last_os_error().into());
        }
        // SAFETY: the kernel just gave us this fd.
        Ok(EventFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    #[inline]
    pub(crate) fn signal(&self) {
        let one = 1_u64;
        // SAFETY: the buffer holds the eight bytes.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// `count` eventfds that are never signalled, the same ones for every loop: fds are scarce.
pub(crate) fn idle(count: usize) -> Result<Vec<Arc<EventFd>>> {
    static POOL: Mutex<Vec<Arc<EventFd>>> = Mutex::new(Vec::new());
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    while pool.len() < count {
        pool.push(Arc::new(EventFd::new()?.above(IDLE_FROM)?));
    }
    Ok(pool[..count].to_vec())
}

#[inline]
pub(crate) fn read(fd: RawFd) {
    let mut count = 0_u64;
    // SAFETY: the buffer has room for the eight bytes.
    unsafe { libc::read(fd, (&raw mut count).cast(), 8) };
}
