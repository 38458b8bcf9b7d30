//! The epoll set of GLib's fds, inside the reactor's.
//!
//! # Stale fds
//! When an fd is closed while its file is open elsewhere (as another fd, or in another process), the file stays in the epoll
//! set and cannot be removed by number any more (epoll(7), questions and answers 6). It then wakes the loop as long as it is
//! ready. The set shows this by wake-ups in a row for which poll(2) finds nothing ready. It is then made anew. If that does not
//! help, the number of wake-ups before the next attempt doubles. It is no mistake of the program: a source is destroyed first and
//! its fd closed then, and the set cannot know of the former before GLib is asked again.
#![forbid(unsafe_code)]

use crate::{AioContext, FdHandler, Result};
use gsource::Epoll;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// So many spurious wake-ups in a row mean a stale fd. One now and then is normal: another thread has read the data.
const SPURIOUS_LIMIT: u32 = 3;
const SPURIOUS_LIMIT_MAX: u32 = 1 << 16;

/// See the module.
pub(super) struct GlibFdSet {
    epoll: Epoll,
    /// Watches the epoll set.
    aio: AioContext,
    /// The fds and events wanted in the set.
    watched: Vec<(RawFd, u16)>,
    /// Set when the epoll set is ready.
    woken: Arc<AtomicBool>,
    /// Fds that epoll refuses.
    refused: Vec<RawFd>,
    /// Spurious wake-ups in a row.
    spurious: u32,
    /// How many of them are accepted.
    limit: u32,
}

impl GlibFdSet {
    pub(super) fn new(aio: &AioContext) -> Result<GlibFdSet> {
        let woken = Arc::new(AtomicBool::new(false));
        Ok(GlibFdSet {
            epoll: new_set(aio, &woken)?,
            aio: aio.clone(),
            watched: Vec::new(),
            woken,
            refused: Vec::new(),
            spurious: 0,
            limit: SPURIOUS_LIMIT,
        })
    }

    /// The first fd that is watched.
    pub(super) fn first(&self) -> Option<RawFd> {
        self.watched.first().map(|&(fd, _)| fd)
    }

    /// The set's own fd.
    pub(super) fn fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Makes the set hold these fds with these events.
    pub(super) fn watch(&mut self, wanted: Vec<(RawFd, u16)>) {
        if wanted == self.watched {
            return;
        }
        for (fd, _) in self
            .watched
            .iter()
            .filter(|old| !wanted.iter().any(|new| new.0 == old.0))
        {
            // The kernel has removed a closed fd already.
            let _ = self.epoll.delete(*fd);
            self.refused.retain(|refused| refused != fd);
        }
        let is_new = |new: &&(RawFd, u16)| !self.watched.contains(new);
        let fresh: Vec<_> = wanted.iter().filter(is_new).copied().collect();
        for (fd, events) in fresh {
            self.add(fd, events);
        }
        self.watched = wanted;
    }

    /// Adds the fds that the kernel does not have: a number that was closed and used again looks unchanged here.
    pub(super) fn watch_again(&mut self) {
        for index in 0..self.watched.len() {
            let (fd, events) = self.watched[index];
            if self.epoll.modify(fd, u32::from(events), 0).is_err() {
                self.add(fd, events);
            }
        }
    }

    /// The event bits of poll and epoll are the same for in, out, pri, err and hup.
    fn add(&mut self, fd: RawFd, events: u16) {
        self.refused.retain(|refused| *refused != fd);
        let events = u32::from(events);
        let added = self
            .epoll
            .add(fd, events, 0)
            .or_else(|error| match error.raw_os_error() {
                Some(libc::EEXIST) => self.epoll.modify(fd, events, 0),
                _ => Err(error),
            });
        match added.map_err(|error| error.raw_os_error()) {
            Ok(()) => {}
            // A closed fd: poll(2) will report it, once.
            Err(Some(libc::EBADF)) => self.woken.store(true, Ordering::Relaxed),
            // Such as a regular file. Only poll(2) takes it.
            Err(_) => self.refused.push(fd),
        }
    }

    pub(super) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Relaxed) || !self.refused.is_empty()
    }

    /// As `is_woken`, and resets it. Only the thread that owns the GMainContext sets and resets the flag.
    pub(super) fn take_woken(&self) -> bool {
        let woken = self.is_woken();
        if self.woken.load(Ordering::Relaxed) {
            self.woken.store(false, Ordering::Relaxed);
        }
        woken
    }

    /// Counts a spurious wake-up; any other turn ends the row. True when there were so many that a stale fd must be there.
    pub(super) fn has_stale_fd(&mut self, spurious: bool) -> bool {
        self.spurious = if spurious { self.spurious + 1 } else { 0 };
        self.spurious >= self.limit
    }

    /// After a wake-up that was not spurious.
    pub(super) fn reset_limit(&mut self) {
        self.limit = SPURIOUS_LIMIT;
    }

    /// Makes the set anew, without stale fds.
    pub(super) fn renew(&mut self) -> Result<()> {
        self.spurious = 0;
        self.limit = (self.limit * 2).min(SPURIOUS_LIMIT_MAX);
        let fresh = new_set(&self.aio, &self.woken)?;
        self.aio.remove_fd_handler(self.epoll.as_raw_fd());
        self.epoll = fresh;
        for index in 0..self.watched.len() {
            let (fd, events) = self.watched[index];
            self.add(fd, events);
        }
        Ok(())
    }
}

impl Drop for GlibFdSet {
    /// The AioContext may live on.
    fn drop(&mut self) {
        self.aio.remove_fd_handler(self.epoll.as_raw_fd());
    }
}

/// An epoll set that sets the flag when it is ready.
fn new_set(aio: &AioContext, woken: &Arc<AtomicBool>) -> Result<Epoll> {
    let (epoll, flag) = (Epoll::new()?, Arc::clone(woken));
    let wake = move || flag.store(true, Ordering::Relaxed);
    let handler = FdHandler::new().on_read(wake).quiet().aside();
    aio.set_fd_handler(epoll.as_raw_fd(), handler)?;
    Ok(epoll)
}
