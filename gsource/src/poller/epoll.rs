//! The epoll(7) instance of a reactor: changed by any thread, waited on by the home.
#![allow(unsafe_code)] // epoll_ctl(2), epoll_pwait2(2), dup3(2)

use crate::{Error, Result, fork};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

/// One event as the kernel gives it.
pub(crate) type Event = libc::epoll_event;

/// An epoll set, level-triggered unless asked otherwise. Only the process that made it changes it.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
    /// The generation of that process.
    process: u32,
}

/// Set once the kernel (or valgrind in its place) has answered ENOSYS to epoll_pwait2.
static NO_PWAIT2: AtomicBool = AtomicBool::new(false);

impl Epoll {
    /// An empty set.
    ///
    /// # Errors
    /// The kernel's, when it gives no fd.
    pub fn new() -> Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(Error::last_os("cannot create an epoll set"));
        }
        // SAFETY: the kernel just gave us this fd.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let process = fork::generation();
        Ok(Epoll { fd, process })
    }

    /// Adds `fd`; its events carry `token`.
    ///
    /// # Errors
    /// epoll_ctl(2)'s.
    pub fn add(&self, fd: RawFd, events: u32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, events, token)
    }

    /// Changes what is wanted of `fd`.
    ///
    /// # Errors
    /// epoll_ctl(2)'s.
    pub fn modify(&self, fd: RawFd, events: u32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, events, token)
    }

    /// Takes `fd` out.
    ///
    /// # Errors
    /// epoll_ctl(2)'s.
    pub fn delete(&self, fd: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    fn control(&self, operation: i32, fd: RawFd, events: u32, token: u64) -> io::Result<()> {
        if self.process != fork::generation() {
            return Err(io::Error::other(fork::OF_THE_PARENT));
        }
        let mut event = libc::epoll_event { events, u64: token };
        // SAFETY: the event is a valid one and outlives the call.
        let answer = unsafe { libc::epoll_ctl(self.as_raw_fd(), operation, fd, &raw mut event) };
        #[cfg(shuttle)]
        crate::kernel_model::change();
        if answer < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Waits for at most `timeout_ns` (negative: for ever) and fills `events`. Interrupted waits return nothing.
    #[cfg(shuttle)]
    pub(crate) fn wait(&self, events: &mut [Event], timeout_ns: i64) -> usize {
        crate::kernel_model::wait(timeout_ns, || self.wait_ms(events, 0))
    }

    /// Waits for at most `timeout_ns` (negative: for ever) and fills `events`. Interrupted waits return nothing.
    #[cfg(not(shuttle))]
    pub(crate) fn wait(&self, events: &mut [Event], timeout_ns: i64) -> usize {
        if timeout_ns <= 0 {
            return self.wait_ms(events, if timeout_ns == 0 { 0 } else { -1 });
        }
        if !NO_PWAIT2.load(Ordering::Relaxed) {
            if let Some(count) = self.wait_ns(events, timeout_ns) {
                return count;
            }
            NO_PWAIT2.store(true, Ordering::Relaxed);
        }
        self.sleep_ns(timeout_ns);
        self.wait_ms(events, 0)
    }

    /// epoll_wait(2), which is quicker than epoll_pwait2(2). A bare system call where there is one: libc's is a cancellation
    /// point, which costs two locked instructions as soon as the process has a second thread.
    fn wait_ms(&self, events: &mut [Event], timeout_ms: i32) -> usize {
        let capacity = i32::try_from(events.len()).unwrap_or(i32::MAX);
        let (fd, events) = (self.as_raw_fd(), events.as_mut_ptr());
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the buffer holds `capacity` events.
        let count =
            unsafe { libc::syscall(libc::SYS_epoll_wait, fd, events, capacity, timeout_ms) };
        #[cfg(not(target_arch = "x86_64"))]
        // SAFETY: the buffer holds `capacity` events.
        let count = unsafe { libc::epoll_wait(fd, events, capacity, timeout_ms) };
        usize::try_from(count).unwrap_or(0)
    }

    /// epoll_pwait2(2); `None` when the kernel does not have it.
    fn wait_ns(&self, events: &mut [Event], timeout_ns: i64) -> Option<usize> {
        let timeout = timespec(timeout_ns);
        // SAFETY: buffer and timeout are valid for the call; the signal mask is absent.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.as_raw_fd(),
                events.as_mut_ptr(),
                events.len(),
                &raw const timeout,
                ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        match usize::try_from(count) {
            Ok(count) => Some(count),
            Err(_) if io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) => None,
            Err(_) => Some(0),
        }
    }

    /// Sleeps until an event is there or the time is over, by ppoll(2) on the set itself.
    fn sleep_ns(&self, timeout_ns: i64) {
        let timeout = timespec(timeout_ns);
        let mut fd = libc::pollfd {
            fd: self.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd and a timeout, both valid for the call.
        unsafe { libc::ppoll(&raw mut fd, 1, &raw const timeout, ptr::null()) };
    }

    /// Puts `fresh` in the place of this set, under the same fd number, so that others can go on polling that number.
    pub(crate) fn replace_with(&self, fresh: &Epoll) -> Result<()> {
        // SAFETY: both fds are ours; the old set is closed by the kernel.
        let fd = unsafe { libc::dup3(fresh.as_raw_fd(), self.as_raw_fd(), libc::O_CLOEXEC) };
        if fd < 0 {
            Err(Error::last_os("cannot rebuild an epoll set"))
        } else {
            Ok(())
        }
    }
}

impl AsRawFd for Epoll {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

fn timespec(ns: i64) -> libc::timespec {
    libc::timespec {
        tv_sec: ns / 1_000_000_000,
        tv_nsec: ns % 1_000_000_000,
    }
}

#[cfg(test)]
mod tests {
    use super::{Epoll, Event, NO_PWAIT2};
    use crate::Clock;
    use crate::eventfd::EventFd;
    use crate::poller::READABLE;
    use std::os::fd::AsRawFd;
    use std::sync::atomic::Ordering;

    fn no_event() -> [Event; 4] {
        [Event { events: 0, u64: 0 }; 4]
    }

    /// Waits with and without epoll_pwait2; in one test because the switch is global.
    #[test]
    fn a_finite_wait_sleeps_its_time_on_every_kernel() {
        let epoll = Epoll::new().unwrap();
        for missing in [false, true] {
            NO_PWAIT2.store(missing, Ordering::Relaxed);
            let start = Clock::Realtime.now_ns();
            assert_eq!(epoll.wait(&mut no_event(), 2_000_000), 0);
            assert!(
                Clock::Realtime.now_ns() - start >= 2_000_000,
                "missing: {missing}"
            );
        }
        let event = EventFd::new().unwrap();
        epoll.add(event.as_raw_fd(), READABLE, 42).unwrap();
        event.write();
        let mut events = no_event();
        assert_eq!(epoll.wait(&mut events, 1_000_000_000), 1);
        assert_eq!({ events[0].u64 }, 42);
        NO_PWAIT2.store(false, Ordering::Relaxed);
    }

    #[test]
    fn a_replaced_set_keeps_its_number() {
        let old = Epoll::new().unwrap();
        let fresh = Epoll::new().unwrap();
        let event = EventFd::new().unwrap();
        fresh.add(event.as_raw_fd(), READABLE, 1).unwrap();
        event.write();
        old.replace_with(&fresh).unwrap();
        drop(fresh);
        assert_eq!(old.wait(&mut no_event(), 0), 1);
    }
}
