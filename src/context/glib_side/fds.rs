//! The fds that GLib waits for in a context. They stand in an epoll set of their own inside the reactor's, so that one wait
//! covers them and an idle GSource costs no system call.
#![allow(unsafe_code)] // poll(2), fcntl(2)

mod set;

use crate::{AioContext, Result};
use glib_sys::GPollFD;
use set::GlibFdSet;
use std::os::fd::RawFd;

/// poll(2)'s answer for a number that is not open.
const POLLNVAL: u16 = libc::POLLNVAL.cast_unsigned();

/// See the module. The iterating thread has it.
pub(super) struct GlibFds {
    /// The reactor's own fd, which GLib polls for the reactor's GSource.
    own_fd: RawFd,
    set: GlibFdSet,
    /// What GLib asked for last.
    asked: Vec<(RawFd, u16)>,
    /// GLib's wake-up fd, if the GMainContext signals each change there.
    wake_fd: Option<RawFd>,
    /// The GSources have changed since the last query: an fd number may have been closed and used again.
    is_stale: bool,
    /// The numbers that were closed when poll(2) was asked last.
    closed: Vec<RawFd>,
    mistake: Mistake,
}

/// An fd that was closed while a GSource watches it. A context reports one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    Found(RawFd),
    Reported,
}

impl GlibFds {
    /// Without fds; `aio` watches the set.
    pub(super) fn new(aio: &AioContext, own_fd: RawFd) -> Result<GlibFds> {
        Ok(GlibFds {
            own_fd,
            set: GlibFdSet::new(aio)?,
            asked: Vec::new(),
            wake_fd: None,
            is_stale: false,
            closed: Vec::new(),
            mistake: Mistake::None,
        })
    }

    /// Takes the first watched fd for GLib's wake-up fd, which a fresh GMainContext alone has.
    pub(super) fn learn_wake_fd(&mut self) {
        self.wake_fd = self.set.first();
    }

    /// Makes the set hold what GLib asks for.
    pub(super) fn watch(&mut self, fds: &[GPollFD]) {
        if !self.closed.is_empty() {
            self.look_for_mistake(fds);
        }
        if std::mem::take(&mut self.is_stale) {
            self.set.watch_again();
        }
        let asked = fds.iter().map(|poll| (poll.fd, poll.events));
        if !asked.clone().eq(self.asked.iter().copied()) {
            self.asked.clear();
            self.asked.extend(asked);
            self.set.watch(merged(&self.asked, self.own_fd));
        }
    }

    /// A source may have been destroyed, and its fd closed, between GLib's last answer and poll(2). But a number that was closed
    /// then, and for which GLib asks anew, belongs to a source that still exists.
    fn look_for_mistake(&mut self, fds: &[GPollFD]) {
        let is_asked = |fd: &RawFd| fds.iter().any(|poll| poll.fd == *fd);
        let found = self
            .closed
            .drain(..)
            .find(|fd| is_asked(fd) && is_closed(*fd));
        if let (Mistake::None, Some(fd)) = (self.mistake, found) {
            self.mistake = Mistake::Found(fd);
        }
    }

    /// An fd that was closed while a GSource watches it, once.
    pub(super) fn take_mistake(&mut self) -> Option<RawFd> {
        let Mistake::Found(fd) = self.mistake else {
            return None;
        };
        self.mistake = Mistake::Reported;
        Some(fd)
    }

    /// Makes the next [`GlibFds::watch`] tell the kernel all fds again.
    pub(super) fn mark_stale(&mut self) {
        self.is_stale = true;
    }

    /// Fills in the events of GLib's fds, without waiting.
    pub(super) fn poll_now(&mut self, fds: &mut [GPollFD]) {
        let count = libc::nfds_t::try_from(fds.len()).unwrap_or(0);
        // SAFETY: a GPollFD is a struct pollfd on Unix, and there are `count`.
        unsafe { libc::poll(fds.as_mut_ptr().cast(), count, 0) };
        let is_signalled = |poll: &GPollFD| Some(poll.fd) == self.wake_fd && poll.revents != 0;
        let changed = self.wake_fd.is_none() || fds.iter().any(is_signalled);
        self.is_stale |= changed;
        let closed = fds.iter().filter(|poll| poll.revents & POLLNVAL != 0);
        self.closed.clear();
        self.closed.extend(closed.map(|poll| poll.fd));
    }

    /// Sets the events of the reactor's own fd.
    pub(super) fn set_own_revents(&self, fds: &mut [GPollFD], revents: u16) {
        for own in fds.iter_mut().filter(|poll| poll.fd == self.own_fd) {
            own.revents = revents;
        }
    }

    /// True if an fd was ready since [`GlibFds::take_woken`].
    pub(super) fn is_woken(&self) -> bool {
        self.set.is_woken()
    }

    /// True if an fd is ready now.
    pub(super) fn is_ready(&self) -> bool {
        is_readable(self.set.fd())
    }

    /// As `is_woken`, and resets it.
    pub(super) fn take_woken(&self) -> bool {
        self.set.take_woken()
    }

    /// Counts a wake-up by GLib's fds for which poll(2) found nothing ready. True after several in a row: then the set holds a
    /// file whose fd was closed, and is to be [made anew](GlibFds::renew).
    pub(super) fn has_stale_fd(&mut self, woken: bool, fds: &[GPollFD]) -> bool {
        let is_ready = |poll: &GPollFD| poll.fd != self.own_fd && poll.revents & !POLLNVAL != 0;
        let any_ready = woken && fds.iter().any(is_ready);
        if any_ready {
            self.set.reset_limit();
        }
        // If another thread has read the data meanwhile, the set is not readable any more either.
        let spurious = woken && !any_ready && self.is_ready();
        self.set.has_stale_fd(spurious)
    }

    /// Makes the set anew.
    pub(super) fn renew(&mut self) -> Result<()> {
        self.set.renew()
    }
}

fn is_closed(fd: RawFd) -> bool {
    // SAFETY: F_GETFD takes no pointer and changes nothing.
    unsafe { libc::fcntl(fd, libc::F_GETFD) < 0 }
}

fn is_readable(fd: RawFd) -> bool {
    let mut asked = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd, valid for the call.
    unsafe { libc::poll(&raw mut asked, 1, 0) > 0 }
}

/// GLib's fds with the events wanted of each, without our own.
fn merged(fds: &[(RawFd, u16)], own_fd: RawFd) -> Vec<(RawFd, u16)> {
    let mut wanted: Vec<(RawFd, u16)> = Vec::with_capacity(fds.len());
    for &(fd, events) in fds.iter().filter(|poll| poll.0 != own_fd) {
        match wanted.iter_mut().find(|known| known.0 == fd) {
            Some((_, known)) => *known |= events,
            None => wanted.push((fd, events)),
        }
    }
    wanted
}

const _: () = assert!(size_of::<GPollFD>() == size_of::<libc::pollfd>());
