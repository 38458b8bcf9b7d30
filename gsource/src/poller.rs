//! Readiness events, in epoll's bits, and the pollers that report them.
//!
//! | poller | what is registered | what a wait is |
//! |---|---|---|
//! | epoll | an epoll set, changed by the registering thread | `epoll_pwait2` |
//! | io_uring | the same set, which a request in the ring waits for | `io_uring_enter`, which submits block I/O as well |
//! | poll | a list, which the home copies when it has changed | `ppoll` |
//!
//! # Why the ring waits for an epoll set
//! A poll request for each fd would hold its file: a closed socket would not be closed to its peer, and a closed listener
//! would keep its address, until the home found time to cancel. No other thread may submit to the home's ring, so a
//! registration elsewhere could not have the kernel's answer. A set in the ring keeps every rule of registration as it is,
//! level-triggered handlers included, and costs one request however many fds are ready.
#![deny(unsafe_code)]

pub(crate) mod epoll;
pub(crate) mod io_sink;
pub(crate) mod poll;
pub(crate) mod ring;

use crate::{Error, ErrorKind, Result};
use std::fmt;
use std::str::FromStr;

/// How a home waits. Handlers, errors and callbacks are the same with each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Poller {
    /// epoll(7), at a cost that does not grow with what is registered.
    #[default]
    Epoll,
    /// io_uring(7): readiness and block I/O in one ring, with one system call for both and none when nothing happens.
    IoUring,
    /// poll(2), which every kernel has, at a cost that grows with what is registered. A change made by another thread
    /// wakes the home.
    Poll,
}

impl Poller {
    /// All of them, the default first.
    pub const ALL: [Poller; 3] = [Poller::Epoll, Poller::IoUring, Poller::Poll];

    /// Its name in options: `epoll`, `io_uring`, `poll`.
    pub fn name(self) -> &'static str {
        match self {
            Poller::Epoll => "epoll",
            Poller::IoUring => "io_uring",
            Poller::Poll => "poll",
        }
    }
}

impl fmt::Display for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Poller {
    type Err = Error;

    fn from_str(name: &str) -> Result<Poller> {
        Poller::ALL
            .into_iter()
            .find(|poller| poller.name() == name)
            .ok_or_else(|| {
                let message = format!("poller expects 'epoll', 'io_uring' or 'poll', not '{name}'");
                Error::new(ErrorKind::InvalidArgument, message)
            })
    }
}

/// Which threads drive a reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drivers {
    /// One for life, the first that waits: its ring needs no locks (io_uring's SINGLE_ISSUER and DEFER_TASKRUN).
    One,
    /// Now this one, now that one.
    Any,
}

/// How many events one wait takes. More stay in the kernel for the next turn.
pub(crate) const EVENTS: usize = 256;

/// The fd can be read.
pub(crate) const READABLE: u32 = libc::EPOLLIN.cast_unsigned();
/// The fd can be written.
pub(crate) const WRITABLE: u32 = libc::EPOLLOUT.cast_unsigned();
/// The peer hung up.
pub(crate) const HANGUP: u32 = libc::EPOLLHUP.cast_unsigned();
/// The fd is in error.
pub(crate) const ERROR: u32 = libc::EPOLLERR.cast_unsigned();
/// Found by busy-polling; not a bit of epoll's.
pub(crate) const POLLED: u32 = 1 << 27;
/// Report changes only.
pub(crate) const EDGE: u32 = libc::EPOLLET.cast_unsigned();

#[cfg(test)]
mod tests {
    use super::Poller;

    #[test]
    fn every_poller_is_found_by_its_name() {
        for poller in Poller::ALL {
            assert_eq!(poller.to_string().parse::<Poller>().unwrap(), poller);
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let error = "select".parse::<Poller>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "poller expects 'epoll', 'io_uring' or 'poll', not 'select'"
        );
    }
}
