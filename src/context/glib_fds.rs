//! The fds that GLib waits for in a context: in an epoll set of their own inside the reactor's, so that one wait covers them and
//! an idle foreign source costs no system call.
#![allow(unsafe_code)] // poll(2)

mod set;

use super::Inner;
use crate::{AioContext, Result};
use glib_sys::GPollFD;
use set::GlibSet;
use std::os::fd::RawFd;

/// See the module. Whoever iterates the context has it.
pub(super) struct GlibFds {
    /// The reactor's own fd, which GLib sees through the reactor's source.
    own_fd: RawFd,
    set: GlibSet,
    /// What GLib has asked for last.
    asked: Vec<(RawFd, u16)>,
    /// GLib's own wake-up fd, where each change to the GMainContext signals it.
    wake_fd: Option<RawFd>,
    /// Since GLib was asked a source may have come that uses a number again.
    is_stale: bool,
}

impl GlibFds {
    /// No fds, watched by `aio`.
    pub(super) fn new(aio: &AioContext, own_fd: RawFd) -> Result<GlibFds> {
        Ok(GlibFds {
            own_fd,
            set: GlibSet::new(aio)?,
            asked: Vec::new(),
            wake_fd: None,
            is_stale: false,
        })
    }

    /// The first fd that is watched is GLib's wake-up fd.
    pub(super) fn learn_wake_fd(&mut self) {
        self.wake_fd = self.set.first();
    }

    /// Makes the set hold what GLib asks for.
    pub(super) fn watch(&mut self, fds: &[GPollFD]) {
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

    /// The numbers may be those of other files now.
    pub(super) fn distrust(&mut self) {
        self.is_stale = true;
    }

    /// Fills in what is ready of what GLib asks for, without waiting.
    pub(super) fn poll_now(&mut self, fds: &mut [GPollFD]) {
        let count = libc::nfds_t::try_from(fds.len()).unwrap_or(0);
        // SAFETY: a GPollFD is a struct pollfd on Unix, and there are `count`.
        unsafe { libc::poll(fds.as_mut_ptr().cast(), count, 0) };
        let told = |poll: &GPollFD| Some(poll.fd) == self.wake_fd && poll.revents != 0;
        let changed = self.wake_fd.is_none() || fds.iter().any(told);
        self.is_stale |= changed;
    }

    /// Sets what GLib is told of the reactor's own fd.
    pub(super) fn show_own(&self, fds: &mut [GPollFD], revents: u16) {
        for own in fds.iter_mut().filter(|poll| poll.fd == self.own_fd) {
            own.revents = revents;
        }
    }

    /// Something was ready since this was last asked.
    pub(super) fn is_woken(&self) -> bool {
        self.set.is_woken()
    }

    /// As `is_woken`, and forgets it.
    pub(super) fn take_woken(&self) -> bool {
        self.set.take_woken()
    }

    /// Learns from a wait that GLib's fds did or did not end, and from the poll that followed. Some file that was closed under
    /// its number may wake us for nothing: that is seen to. If there are no means to do so, it goes on until there are.
    pub(super) fn judge(&mut self, context: &Inner, woken: bool, fds: &[GPollFD]) {
        let closed = u16::try_from(libc::POLLNVAL).unwrap_or(0);
        let is_found = |poll: &GPollFD| poll.fd != self.own_fd && poll.revents & !closed != 0;
        let found = woken && fds.iter().any(is_found);
        if found {
            self.set.be_patient_again();
        }
        // Where somebody else has read what was there, nothing is ready any more.
        let in_vain = woken && !found && is_readable(self.set.fd());
        if !self.set.is_haunted(in_vain) {
            return;
        }
        let renewed = context.aio().and_then(|aio| self.set.renew(&aio));
        if renewed.is_ok_and(|is_first| is_first) {
            glib::g_warning!(
                "qcontext",
                "context '{}': an fd was closed before the GSource that watches it was destroyed, and its file is open elsewhere",
                context.id
            );
        }
    }
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
