//! The epoll set itself, which stands in the reactor's.
//!
//! A file that is closed under its number while it is open elsewhere (under another number, in another process) stays in the
//! set, and no number reaches it there any more (epoll(7), questions and answers 6): a ghost, which wakes the loop for as long
//! as it is ready. It shows by wake-ups one after the other for which poll(2) finds nothing ready. Then the set is made anew,
//! and for each time that this does not help, after twice as many of them.
#![forbid(unsafe_code)]

use crate::{AioContext, FdHandler, Result};
use gsource::Epoll;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// So many wake-ups for nothing are a ghost's; now and then there is one because somebody else has read what was there.
const PATIENCE: u32 = 3;
const MOST_PATIENCE: u32 = 1 << 16;

/// See the module.
pub(super) struct GlibSet {
    epoll: Epoll,
    /// What it is to hold.
    watched: Vec<(RawFd, u16)>,
    /// It has become ready.
    woken: Arc<AtomicBool>,
    /// Wake-ups for nothing, one after the other.
    vain: u32,
    /// So many of them are suffered.
    patience: u32,
    /// A ghost was told of.
    told: bool,
}

impl GlibSet {
    pub(super) fn new(aio: &AioContext) -> Result<GlibSet> {
        let woken = Arc::new(AtomicBool::new(false));
        Ok(GlibSet {
            epoll: new_set(aio, &woken)?,
            watched: Vec::new(),
            woken,
            vain: 0,
            patience: PATIENCE,
            told: false,
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
            // A closed fd has left the set already.
            let _ = self.epoll.delete(*fd);
        }
        for &(fd, events) in wanted.iter().filter(|new| !self.watched.contains(new)) {
            self.add(fd, events);
        }
        self.watched = wanted;
    }

    /// A number that was closed and used again is wanted as before, but the kernel has forgotten it.
    pub(super) fn watch_again(&self) {
        for &(fd, events) in &self.watched {
            let kept = self.epoll.modify(fd, u32::from(events), 0);
            if kept.is_err_and(|error| error.raw_os_error() == Some(libc::ENOENT)) {
                self.add(fd, events);
            }
        }
    }

    /// Poll's and epoll's event bits are the same for in, out, pri, err and hup.
    fn add(&self, fd: RawFd, events: u16) {
        let events = u32::from(events);
        let added = self
            .epoll
            .add(fd, events, 0)
            .or_else(|error| match error.raw_os_error() {
                Some(libc::EEXIST) => self.epoll.modify(fd, events, 0),
                _ => Err(error),
            });
        // What epoll refuses (a regular file, a closed fd) is ready at once for poll.
        if added.is_err() {
            self.woken.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Relaxed)
    }

    /// Only the home's thread sets and clears the flag.
    pub(super) fn take_woken(&self) -> bool {
        let woken = self.is_woken();
        if woken {
            self.woken.store(false, Ordering::Relaxed);
        }
        woken
    }

    /// Counts a wake-up, or that there was none. True when there are so many for nothing that a ghost must be there.
    pub(super) fn is_haunted(&mut self, woken: bool, found: bool) -> bool {
        match (woken, found) {
            (true, false) => self.vain += 1,
            (true, true) => (self.vain, self.patience) = (0, PATIENCE),
            (false, _) => self.vain = 0,
        }
        self.vain >= self.patience
    }

    /// Makes the set anew, without ghosts. True if they are to be told of, which is once.
    pub(super) fn renew(&mut self, aio: &AioContext) -> Result<bool> {
        self.vain = 0;
        self.patience = (self.patience * 2).min(MOST_PATIENCE);
        let fresh = new_set(aio, &self.woken)?;
        aio.remove_fd_handler(self.epoll.as_raw_fd());
        self.epoll = fresh;
        for &(fd, events) in &self.watched {
            self.add(fd, events);
        }
        Ok(!std::mem::replace(&mut self.told, true))
    }
}

/// A set whose wake-ups set the flag.
fn new_set(aio: &AioContext, woken: &Arc<AtomicBool>) -> Result<Epoll> {
    let (epoll, flag) = (Epoll::new()?, Arc::clone(woken));
    let wake = move || flag.store(true, Ordering::Relaxed);
    aio.set_fd_handler(epoll.as_raw_fd(), FdHandler::new().on_read(wake).quiet())?;
    Ok(epoll)
}
