//! The fds of a reactor, which it takes when it is first driven or waited for, and what it waits with.
#![forbid(unsafe_code)]

use super::fd_table::{KernelSet, WAKE};
use super::{Reactor, Urgency, report};
use crate::Result;
use crate::eventfd::EventFd;
use crate::poller::Poller;
use crate::poller::epoll::Epoll;
use crate::poller::ring::HomeRing;
use crate::sync::{Life, Mutex, lock};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

/// The fds of a reactor.
pub(super) struct ReactorFds {
    pub(super) method: WaitMethod,
    wake: EventFd,
    life: Life,
}

/// What a home waits with.
pub(super) enum WaitMethod {
    Epoll(Arc<Epoll>),
    /// With the ring, until the home takes it.
    Ring(Arc<Epoll>, Mutex<Option<Box<HomeRing>>>),
    Poll,
}

impl WaitMethod {
    fn new(reactor: &Reactor) -> Result<WaitMethod> {
        Ok(match reactor.poller {
            Poller::Epoll => WaitMethod::Epoll(Arc::new(Epoll::new()?)),
            Poller::IoUring => {
                let ring = HomeRing::for_waiting(reactor.drivers, reactor.allowed)?;
                let ring = Mutex::new(Some(Box::new(ring)));
                WaitMethod::Ring(Arc::new(Epoll::new()?), ring)
            }
            Poller::Poll => WaitMethod::Poll,
        })
    }

    /// What the fd table registers fds with.
    fn set(&self) -> KernelSet {
        match self {
            WaitMethod::Epoll(epoll) | WaitMethod::Ring(epoll, _) => {
                KernelSet::Epoll(Arc::clone(epoll))
            }
            WaitMethod::Poll => KernelSet::List(0),
        }
    }
}

impl Reactor {
    /// The fds, which are taken now if they were not before.
    pub(super) fn open(&self) -> Result<&ReactorFds> {
        if let Some(fds) = self.fds.get() {
            return Ok(fds);
        }
        let method = WaitMethod::new(self)?;
        let wake = EventFd::new()?;
        let mut table = lock(&self.table);
        let mut is_first = false;
        let fds = self.fds.get_or_init(|| {
            is_first = true;
            let life = Life::new();
            ReactorFds { method, wake, life }
        });
        let mut errors = Vec::new();
        if is_first {
            errors = table.open(fds.method.set(), (fds.wake.as_raw_fd(), WAKE))?;
            self.count_fds(&table);
        }
        drop(table);
        report(errors);
        Ok(fds)
    }

    /// The fd that becomes readable when the reactor has something to do; with [`Poller::Poll`] only when another thread has
    /// asked for it.
    ///
    /// # Errors
    /// The kernel's, when it gives no fds.
    #[doc(hidden)] // for the contexts of qcontext
    pub fn poll_fd(&self) -> Result<RawFd> {
        self.open().map(|fds| match &fds.method {
            WaitMethod::Epoll(epoll) | WaitMethod::Ring(epoll, _) => epoll.as_raw_fd(),
            WaitMethod::Poll => fds.wake.as_raw_fd(),
        })
    }

    /// Makes the current or next blocking wait return. Async-signal-safe.
    pub fn notify(&self) {
        if self.state.notify() {
            self.write_wake_fd();
        }
    }

    /// Makes the home look again if it blocks. Async-signal-safe.
    pub(super) fn wake_if_sleeping(&self) {
        if self.state.wake_if_sleeping() {
            self.write_wake_fd();
        }
    }

    /// Lets the home see what was scheduled. Async-signal-safe.
    pub(super) fn wake_for(&self, urgency: Urgency) {
        match urgency {
            Urgency::Now => self.notify(),
            Urgency::Idle => self.wake_if_sleeping(),
        }
    }

    pub(super) fn write_wake_fd(&self) {
        if let Some(fds) = self.fds.get() {
            fds.life.used();
            fds.wake.write();
        }
    }
}
