//! The bare calls of an epoll set.
#![allow(unsafe_code)] // epoll(7)

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use super::Result;

const EVENTS: usize = 256;

pub(crate) struct Epoll {
    fd: OwnedFd,
    pub(crate) events: Vec<libc::epoll_event>,
}

impl Epoll {
    pub(crate) fn new() -> Result<Epoll> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error().into());
        }
        let events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        // SAFETY: the kernel just gave us this fd.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Epoll { fd, events })
    }

    pub(crate) fn add(&self, fd: RawFd, events: i32, data: u64) -> Result<()> {
        let mut event = libc::epoll_event {
            events: events.cast_unsigned(),
            u64: data,
        };
        // SAFETY: the event is valid for the call.
        let result = unsafe {
            libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event)
        };
        if result < 0 {
            return Err(io::Error::last_os_error().into());
        }
        Ok(())
    }

    pub(crate) fn delete(&self, fd: RawFd) {
        // SAFETY: a deletion reads no event.
        unsafe {
            libc::epoll_ctl(
                self.fd.as_raw_fd(),
                libc::EPOLL_CTL_DEL,
                fd,
                ptr::null_mut(),
            )
        };
    }

    /// `epoll_wait`; the number of events.
    #[inline]
    pub(crate) fn wait(&mut self, timeout_ms: i32) -> usize {
        let (events, fd) = (self.events.as_mut_ptr(), self.fd.as_raw_fd());
        // SAFETY: there is room for 256 events.
        let count = unsafe { libc::epoll_wait(fd, events, 256, timeout_ms) };
        usize::try_from(count).unwrap_or(0)
    }

    /// `epoll_pwait2`; the number of events.
    #[inline]
    pub(crate) fn wait_ns(&mut self, timeout_ns: i64) -> usize {
        let (events, fd) = (self.events.as_mut_ptr(), self.fd.as_raw_fd());
        let time = libc::timespec {
            tv_sec: timeout_ns / 1_000_000_000,
            tv_nsec: timeout_ns % 1_000_000_000,
        };
        let mask: *const libc::sigset_t = ptr::null();
        // SAFETY: there is room for 256 events, the time is valid for the call, no mask is given.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                fd,
                events,
                256,
                &raw const time,
                mask,
                8,
            )
        };
        usize::try_from(count).unwrap_or(0)
    }
}
