//! poll(2) over a list of fds, the home's copy of what is registered.
//!
//! poll knows no edges. An edge-triggered eventfd is read when it is reported, so that it falls silent until it is written
//! again; another edge-triggered fd is reported for as long as it is ready.
#![allow(unsafe_code)] // ppoll(2), preadv2(2)

use super::epoll::Event;
use std::fs;
use std::os::fd::RawFd;
use std::ptr;

/// An fd of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) fd: RawFd,
    /// In epoll's bits. The low ones are poll's as well.
    pub(crate) events: u32,
    pub(crate) token: u64,
    pub(crate) drained: Drained,
}

/// Whether an fd is read when it is reported, so that it falls silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    No,
    /// A non-blocking eventfd or timerfd of the loop's own.
    Own,
    /// An eventfd that others may share.
    Shared,
}

/// The list, as of one version of what is registered.
#[derive(Default)]
pub(crate) struct PollList {
    version: u64,
    polled: Vec<libc::pollfd>,
    listed: Vec<Listed>,
    ready: Vec<Event>,
    /// Tokens of fds that are not open.
    closed: Vec<u64>,
}

impl PollList {
    /// True when the list is as of `version`.
    pub(crate) fn is_of(&self, version: u64) -> bool {
        self.version == version
    }

    /// What is listed.
    pub(crate) fn listed(&self) -> &[Listed] {
        &self.listed
    }

    /// Takes a new list, as of `version`.
    pub(crate) fn fill(&mut self, version: u64, listed: impl Iterator<Item = Listed>) {
        self.version = version;
        self.listed.clear();
        self.listed.extend(listed);
        self.polled.clear();
        self.polled
            .extend(self.listed.iter().map(|one| libc::pollfd {
                fd: one.fd,
                // Poll's bits are the low ones; EPOLLET and its like are above.
                events: libc::c_short::try_from(one.events & 0x7fff).unwrap_or(0),
                revents: 0,
            }));
    }

    /// Waits for at most `timeout_ns` (negative: for ever). The result is in [`PollList::ready`] and [`PollList::closed`]. A wait
    /// that a signal interrupts finds nothing.
    pub(crate) fn wait(&mut self, timeout_ns: i64) {
        let ready = self.poll(timeout_ns);
        self.ready.clear();
        self.closed.clear();
        if ready > 0 {
            self.sort();
        }
    }

    #[cfg(shuttle)]
    fn poll(&mut self, timeout_ns: i64) -> usize {
        crate::kernel_model::wait(timeout_ns, || self.ppoll(0))
    }

    #[cfg(not(shuttle))]
    fn poll(&mut self, timeout_ns: i64) -> usize {
        self.ppoll(timeout_ns)
    }

    /// ppoll(2); how many are ready.
    fn ppoll(&mut self, timeout_ns: i64) -> usize {
        let timeout = libc::timespec {
            tv_sec: timeout_ns / 1_000_000_000,
            tv_nsec: timeout_ns % 1_000_000_000,
        };
        let limit = if timeout_ns < 0 {
            ptr::null()
        } else {
            &raw const timeout
        };
        let count = libc::nfds_t::try_from(self.polled.len()).unwrap_or(0);
        // SAFETY: `count` pollfds and a timeout, all valid for the call; the signal mask is absent.
        let ready = unsafe { libc::ppoll(self.polled.as_mut_ptr(), count, limit, ptr::null()) };
        usize::try_from(ready).unwrap_or(0)
    }

    fn sort(&mut self) {
        let reported = self.polled.iter().zip(&self.listed);
        for (polled, listed) in reported.filter(|(polled, _)| polled.revents != 0) {
            if polled.revents & libc::POLLNVAL != 0 {
                self.closed.push(listed.token);
                continue;
            }
            listed.drain();
            self.ready.push(Event {
                events: u32::from(polled.revents.cast_unsigned()),
                u64: listed.token,
            });
        }
    }

    /// What the last wait found ready.
    pub(crate) fn ready(&self) -> &[Event] {
        &self.ready
    }

    /// Tokens of the fds that the last wait found not to be open.
    pub(crate) fn closed(&self) -> &[u64] {
        &self.closed
    }
}

impl Listed {
    /// Reads the counter. That never blocks, even if other users of the file change its flags.
    fn drain(&self) {
        let mut counter = 0u64;
        let place = libc::iovec {
            iov_base: (&raw mut counter).cast(),
            iov_len: size_of::<u64>(),
        };
        // An empty counter answers EAGAIN.
        match self.drained {
            Drained::No => {}
            // SAFETY: the place is 8 writable bytes.
            Drained::Own => unsafe {
                libc::readv(self.fd, &raw const place, 1);
            },
            // SAFETY: the place is 8 writable bytes.
            Drained::Shared => unsafe {
                libc::preadv2(self.fd, &raw const place, 1, -1, libc::RWF_NOWAIT);
            },
        }
    }
}

/// True for an eventfd, according to /proc.
pub(crate) fn is_eventfd(fd: RawFd) -> bool {
    fs::read_link(format!("/proc/self/fd/{fd}"))
        .is_ok_and(|target| target.as_os_str() == "anon_inode:[eventfd]")
}

#[cfg(test)]
mod tests {
    use super::{Drained, Listed, PollList, is_eventfd};
    use crate::Clock;
    use crate::eventfd::EventFd;
    use crate::poller::{EDGE, READABLE, WRITABLE};
    use std::os::fd::{AsRawFd, RawFd};

    fn listed(fd: RawFd, events: u32, drained: Drained) -> Listed {
        Listed {
            fd,
            events,
            token: 42,
            drained,
        }
    }

    fn reports(list: &mut PollList, timeout_ns: i64) -> Vec<(u64, u32)> {
        list.wait(timeout_ns);
        list.ready()
            .iter()
            .map(|event| (event.u64, event.events))
            .collect()
    }

    #[test]
    fn what_is_drained_is_reported_once() {
        let (event, mut list) = (EventFd::new().unwrap(), PollList::default());
        list.fill(
            1,
            [listed(event.as_raw_fd(), READABLE | EDGE, Drained::Shared)].into_iter(),
        );
        event.write();
        assert_eq!(reports(&mut list, -1), [(42, READABLE)]);
        assert_eq!(reports(&mut list, 0), []);
        event.write();
        assert_eq!(reports(&mut list, -1), [(42, READABLE)]);
    }

    #[test]
    fn what_is_not_drained_is_reported_while_it_lasts() {
        let (event, mut list) = (EventFd::new().unwrap(), PollList::default());
        list.fill(
            1,
            [listed(event.as_raw_fd(), READABLE | WRITABLE, Drained::No)].into_iter(),
        );
        event.write();
        for _ in 0..2 {
            assert_eq!(reports(&mut list, -1), [(42, READABLE | WRITABLE)]);
        }
    }

    #[test]
    fn an_fd_that_is_not_open_is_reported_as_closed() {
        let mut list = PollList::default();
        list.fill(1, [listed(1_000_000, READABLE, Drained::No)].into_iter());
        assert_eq!(reports(&mut list, -1), []);
        assert_eq!(list.closed(), [42]);
    }

    #[test]
    fn a_finite_wait_sleeps_its_time() {
        let mut list = PollList::default();
        let start = Clock::Realtime.now_ns();
        assert_eq!(reports(&mut list, 2_000_000), []);
        assert!(Clock::Realtime.now_ns() - start >= 2_000_000);
    }

    #[test]
    fn only_an_eventfd_is_one() {
        let event = EventFd::new().unwrap();
        let (stream, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(is_eventfd(event.as_raw_fd()));
        assert!(!is_eventfd(stream.as_raw_fd()));
        assert!(!is_eventfd(-1));
    }
}
