//! The fds that GLib waits for in a context: in an epoll set of their own inside the reactor's, so that one wait covers them and
//! an idle foreign source costs no system call.
//!
//! Used by the home's own loop, and as the poll function when somebody else iterates the GMainContext.
//!
//! # Threads
//! Used by whoever owns the GMainContext. The lock is never held while others' code runs.
#![allow(unsafe_code)] // poll(2)

use super::lock;
use crate::{AioContext, FdHandler, Result};
use glib_sys::GPollFD;
use gsource::{Driving, Epoll, GlibPoll};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// See the module.
pub(super) struct GlibFds {
    set: Epoll,
    /// The set has become ready.
    woken: Arc<AtomicBool>,
    /// The reactor's own fd, which GLib sees through the reactor's source.
    own_fd: RawFd,
    watched: Mutex<Watched>,
}

/// What the set holds.
#[derive(Default)]
struct Watched {
    /// What GLib has asked for.
    asked: Vec<(RawFd, u16)>,
    /// The same by fd, without our own.
    merged: Vec<(RawFd, u16)>,
    /// GLib's own wake-up fd, where each change to the GMainContext signals it.
    wake_fd: Option<RawFd>,
    /// Since GLib was asked a source may have come that uses a number again.
    is_stale: bool,
}

impl GlibFds {
    /// An empty set, watched by `aio`.
    pub(super) fn new(aio: &AioContext, own_fd: RawFd) -> Result<Arc<GlibFds>> {
        let (set, woken) = (Epoll::new()?, Arc::new(AtomicBool::new(false)));
        let flag = Arc::clone(&woken);
        let wake = move || flag.store(true, Ordering::Relaxed);
        aio.set_fd_handler(set.as_raw_fd(), FdHandler::new().on_read(wake).quiet())?;
        Ok(Arc::new(GlibFds {
            set,
            woken,
            own_fd,
            watched: Mutex::default(),
        }))
    }

    /// The first fd that is watched is GLib's wake-up fd.
    pub(super) fn learn_wake_fd(&self) {
        let mut watched = lock(&self.watched);
        watched.wake_fd = watched.merged.first().map(|&(fd, _)| fd);
    }

    /// Makes the set hold what GLib asks for.
    pub(super) fn watch(&self, fds: &[GPollFD]) {
        let mut watched = lock(&self.watched);
        if std::mem::take(&mut watched.is_stale) {
            self.watch_again(&watched.merged);
        }
        let asked = fds.iter().map(|poll| (poll.fd, poll.events));
        if asked.clone().eq(watched.asked.iter().copied()) {
            return;
        }
        watched.asked.clear();
        watched.asked.extend(asked);
        let wanted = merged(&watched.asked, self.own_fd);
        let is_unwanted = |old: &&(RawFd, u16)| !wanted.iter().any(|new| new.0 == old.0);
        for (fd, _) in watched.merged.iter().filter(is_unwanted) {
            // A closed fd has left the set already.
            let _ = self.set.delete(*fd);
        }
        for &(fd, events) in wanted.iter().filter(|new| !watched.merged.contains(new)) {
            self.watch_fd(fd, u32::from(events));
        }
        watched.merged = wanted;
    }

    /// Poll's and epoll's event bits are the same for in, out, pri, err and hup.
    fn watch_fd(&self, fd: RawFd, events: u32) {
        let added = self
            .set
            .add(fd, events, 0)
            .or_else(|error| match error.raw_os_error() {
                Some(libc::EEXIST) => self.set.modify(fd, events, 0),
                _ => Err(error),
            });
        // What epoll refuses (a regular file, a closed fd) is ready at once for poll.
        if added.is_err() {
            self.woken.store(true, Ordering::Relaxed);
        }
    }

    /// A number that was closed and used again is wanted as before, but the kernel has forgotten it.
    fn watch_again(&self, watched: &[(RawFd, u16)]) {
        for &(fd, events) in watched {
            let kept = self.set.modify(fd, u32::from(events), 0);
            if kept.is_err_and(|error| error.raw_os_error() == Some(libc::ENOENT)) {
                self.watch_fd(fd, u32::from(events));
            }
        }
    }

    /// Fills in what is ready of what GLib asks for, without waiting.
    pub(super) fn poll_now(&self, fds: &mut [GPollFD]) {
        let count = libc::nfds_t::try_from(fds.len()).unwrap_or(0);
        // SAFETY: a GPollFD is a struct pollfd on Unix, and there are `count`.
        unsafe { libc::poll(fds.as_mut_ptr().cast(), count, 0) };
        let mut watched = lock(&self.watched);
        let told = |poll: &GPollFD| Some(poll.fd) == watched.wake_fd && poll.revents != 0;
        let changed = watched.wake_fd.is_none() || fds.iter().any(told);
        watched.is_stale |= changed;
    }

    /// Sets what GLib is told of the reactor's own fd.
    pub(super) fn show_own(&self, fds: &mut [GPollFD], revents: u16) {
        for own in fds.iter_mut().filter(|poll| poll.fd == self.own_fd) {
            own.revents = revents;
        }
    }

    /// Something was ready since this was last asked.
    pub(super) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Relaxed)
    }

    /// As `is_woken`, and forgets it. Only the owner of the GMainContext sets and clears the flag.
    pub(super) fn take_woken(&self) -> bool {
        let woken = self.is_woken();
        if woken {
            self.woken.store(false, Ordering::Relaxed);
        }
        woken
    }
}

impl GlibPoll for GlibFds {
    fn poll(&self, driving: &Driving<'_>, fds: &mut [GPollFD], timeout_ms: i32) -> i32 {
        self.watch(fds);
        let timeout_ns = match i64::from(timeout_ms) {
            _ if self.is_woken() => 0,
            ..0 => -1,
            ms => ms * 1_000_000,
        };
        let waited = driving
            .reactor()
            .wait_for_glib(driving, timeout_ns, self.set.as_raw_fd());
        if self.take_woken() | waited.theirs {
            self.poll_now(fds);
        } else {
            for poll in &mut *fds {
                poll.revents = 0;
            }
        }
        let readable = if waited.ours { libc::POLLIN } else { 0 };
        self.show_own(fds, readable.cast_unsigned());
        let ready = fds.iter().filter(|poll| poll.revents != 0).count();
        i32::try_from(ready).unwrap_or(i32::MAX)
    }
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
