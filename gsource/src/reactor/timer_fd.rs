//! The timerfd that wakes GLib in time for a timer. GLib's own timeouts are whole milliseconds.
#![allow(unsafe_code)] // timerfd(2)

use super::Driving;
use super::fd_table::TIMER;
use crate::clock::Clock;
use crate::sync::lock;
use crate::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// Deadlines closer than that to the armed one are taken for it.
const GRAIN_NS: u64 = 1_000;

/// The timerfd, once there was a timer.
pub(super) struct TimerFd {
    fd: Option<OwnedFd>,
    /// The time for which it is armed; `i64::MAX` when it is not.
    deadline: i64,
}

impl Default for TimerFd {
    fn default() -> Self {
        TimerFd {
            fd: None,
            deadline: i64::MAX,
        }
    }
}

impl TimerFd {
    /// Its event was seen.
    pub(super) fn has_fired(&mut self) {
        self.deadline = i64::MAX;
    }
}

impl Driving<'_> {
    /// Arms the timerfd for `remaining` nanoseconds from now. `None` leaves it alone: an event too early does no harm.
    pub(super) fn arm_timer_fd(&self, remaining: Option<i64>) {
        let Some(remaining) = remaining else { return };
        let deadline = Clock::Realtime.now_ns().saturating_add(remaining);
        let timer = &mut self.home().timer_fd;
        if timer.deadline.abs_diff(deadline) < GRAIN_NS {
            return;
        }
        if timer.fd.is_none() {
            timer.fd = self
                .open_timer_fd()
                .inspect_err(|error| glib::g_warning!("qcontext", "{error}"))
                .ok();
        }
        if let Some(fd) = &timer.fd {
            set(fd, deadline);
            timer.deadline = deadline;
        }
    }

    fn open_timer_fd(&self) -> Result<OwnedFd> {
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
        if fd < 0 {
            return Err(Error::last_os("cannot create a timerfd"));
        }
        // SAFETY: the kernel just gave us this fd.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        lock(&self.reactor.table).watch_internal(fd.as_raw_fd(), TIMER)?;
        Ok(fd)
    }
}

fn set(fd: &OwnedFd, deadline: i64) {
    let no_interval = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let value = libc::timespec {
        tv_sec: deadline / 1_000_000_000,
        tv_nsec: deadline % 1_000_000_000,
    };
    let spec = libc::itimerspec {
        it_interval: no_interval,
        it_value: value,
    };
    // SAFETY: the fd is a timerfd and the spec is valid for the call.
    unsafe {
        libc::timerfd_settime(
            fd.as_raw_fd(),
            libc::TFD_TIMER_ABSTIME,
            &raw const spec,
            ptr::null_mut(),
        )
    };
}
