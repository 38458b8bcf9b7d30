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
    /// Fds that epoll does not take.
    refused: Vec<RawFd>,
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
            refused: Vec::new(),
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
            self.refused.retain(|refused| refused != fd);
        }
        let is_new = |new: &&(RawFd, u16)| !self.watched.contains(new);
        let fresh: Vec<_> = wanted.iter().filter(is_new).copied().collect();
        for (fd, events) in fresh {
            self.add(fd, events);
        }
        self.watched = wanted;
    }

    /// A number that was closed and used again is wanted as before, but the kernel has forgotten it.
    pub(super) fn watch_again(&mut self) {
        for index in 0..self.watched.len() {
            let (fd, events) = self.watched[index];
            if self.epoll.modify(fd, u32::from(events), 0).is_err() {
                self.add(fd, events);
            }
        }
    }

    /// Poll's and epoll's event bits are the same for in, out, pri, err and hup.
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
            // A closed fd: poll tells of it, once.
            Err(Some(libc::EBADF)) => self.woken.store(true, Ordering::Relaxed),
            // What epoll refuses, as it does a regular file, only poll can ask.
            Err(_) => self.refused.push(fd),
        }
    }

    pub(super) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Relaxed) || !self.refused.is_empty()
    }

    /// As `is_woken`, and forgets it. Only who owns the GMainContext sets and clears the flag.
    pub(super) fn take_woken(&self) -> bool {
        let woken = self.is_woken();
        if self.woken.load(Ordering::Relaxed) {
            self.woken.store(false, Ordering::Relaxed);
        }
        woken
    }

    /// Counts a wake-up for nothing, or that there was none. True when there are so many that a ghost must be there.
    pub(super) fn is_haunted(&mut self, in_vain: bool) -> bool {
        self.vain = if in_vain { self.vain + 1 } else { 0 };
        self.vain >= self.patience
    }

    /// Somebody has been found where the set said so.
    pub(super) fn be_patient_again(&mut self) {
        self.patience = PATIENCE;
    }

    /// Makes the set anew, without ghosts. True if they are to be told of, which is once.
    pub(super) fn renew(&mut self, aio: &AioContext) -> Result<bool> {
        self.vain = 0;
        self.patience = (self.patience * 2).min(MOST_PATIENCE);
        let fresh = new_set(aio, &self.woken)?;
        aio.remove_fd_handler(self.epoll.as_raw_fd());
        self.epoll = fresh;
        for index in 0..self.watched.len() {
            let (fd, events) = self.watched[index];
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
