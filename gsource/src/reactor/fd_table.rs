//! Which handlers want which fd, and what the kernel has been told.
//!
//! Several AioContexts of a reactor may want one fd; epoll takes an fd once, so interests are merged here. The table is
//! indexed by fd, so a change costs the same however many handlers there are.
//!
//! # Invariants
//! 1. A token names an fd and the generation of its registration; a registration that left the set never comes back with
//!    the same generation, so an event read before the change cannot reach a later handler.
#![allow(unsafe_code)] // fcntl(2)

mod listing;

use crate::poller::epoll::{Epoll, Event};
use crate::poller::{EDGE, READABLE, WRITABLE};
use crate::reactor::fd_record::FdRecord;
use crate::{Error, Result};
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

/// Handlers to call with what happened, oldest first.
pub(crate) type Batch = VecDeque<(Arc<FdRecord>, u32)>;

#[derive(Default)]
struct Entry {
    generation: u32,
    /// The events in the epoll set; 0 when the fd is not in it.
    armed: u32,
    records: Vec<Arc<FdRecord>>,
}

impl Entry {
    fn interest(&self) -> u32 {
        self.records
            .iter()
            .fold(0, |all, record| all | record.interest())
    }

    /// Edge-triggered only if every handler wants it so.
    fn edge(&self) -> u32 {
        if self.records.iter().all(|record| record.handler.edge) {
            EDGE
        } else {
            0
        }
    }
}

/// The handlers of a reactor by fd.
#[derive(Default)]
pub(crate) struct FdTable {
    entries: Vec<Entry>,
    set: Set,
    next_generation: u32,
    /// Fds that epoll refuses (regular files): they count as always ready, as in poll(2).
    always_ready: Vec<RawFd>,
    /// How many handlers have no `io_poll`.
    unpollable: usize,
    /// The reactor's own fds and their tokens, all edge-triggered.
    internal: Vec<(RawFd, u64)>,
    /// Tokens that named no live registration.
    stale: Vec<u64>,
}

/// Who is told what is wanted.
#[derive(Default)]
pub(crate) enum Set {
    /// Nobody yet.
    #[default]
    None,
    Epoll(Arc<Epoll>),
    /// The home, by a [`PollList`](crate::poller::poll::PollList) of that version.
    List(u64),
}

/// So many stale tokens mean that files live on, without waiting to see one of them twice.
const MANY_STALE: usize = 64;

impl FdTable {
    /// Starts to use `set`, with the reactor's wake-up fd and its token in it, and registers everything that was recorded
    /// before. An fd that was closed meanwhile spoils nothing; the answer tells of it.
    pub(crate) fn open(&mut self, set: Set, wake: (RawFd, u64)) -> Result<Vec<Error>> {
        self.set = set;
        self.watch_internal(wake.0, wake.1)?;
        Ok((0..self.entries.len())
            .filter_map(|fd| self.sync(raw(fd), true).err())
            .collect())
    }

    /// Watches one of the reactor's own fds, whose events carry `token`.
    pub(crate) fn watch_internal(&mut self, fd: RawFd, token: u64) -> Result<()> {
        match &mut self.set {
            Set::None => {}
            Set::Epoll(epoll) => epoll
                .add(fd, READABLE | EDGE, token)
                .map_err(|error| refused(fd, error))?,
            Set::List(version) => *version += 1,
        }
        self.internal.push((fd, token));
        Ok(())
    }

    /// Watches one of the reactor's own fds no more.
    pub(crate) fn ignore_internal(&mut self, fd: RawFd) {
        match &mut self.set {
            Set::None => {}
            Set::Epoll(epoll) => {
                // It is in the set: `watch_internal` has answered for that.
                let _ = epoll.delete(fd);
            }
            Set::List(version) => *version += 1,
        }
        self.internal.retain(|&(own, _)| own != fd);
    }

    /// Adds a handler.
    ///
    /// # Errors
    /// The kernel's, when it does not take the fd; then nothing was added.
    pub(crate) fn add(&mut self, record: &Arc<FdRecord>) -> Result<()> {
        let fd = record.fd;
        let index = index(fd)?;
        if !matches!(self.set, Set::Epoll(_)) || self.entries.len() <= index {
            // Nothing asks the kernel before the table is open, and a wrong number must not make it huge.
            check_open(fd)?;
        }
        self.put(index, record);
        self.sync(fd, true).inspect_err(|_| {
            self.remove(record);
        })
    }

    /// Takes over a handler from another table. One whose fd was closed meanwhile (or names an epoll set by now) is taken
    /// too, and told of in `closed`.
    ///
    /// # Errors
    /// The kernel's, when it does not take the fd; then nothing was added.
    pub(crate) fn adopt(&mut self, record: &Arc<FdRecord>, closed: &mut Vec<Error>) -> Result<()> {
        self.put(index(record.fd)?, record);
        match self.sync(record.fd, true) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBADF | libc::EINVAL)) => {
                closed.push(error);
            }
            Err(error) => {
                self.remove(record);
                return Err(error);
            }
            Ok(()) => {}
        }
        Ok(())
    }

    fn put(&mut self, index: usize, record: &Arc<FdRecord>) {
        if self.entries.len() <= index {
            self.entries.resize_with(index + 1, Entry::default);
        }
        self.entries[index].records.push(Arc::clone(record));
        self.unpollable += usize::from(record.handler.io_poll.is_none());
    }

    /// Takes a handler out; false when it was not here.
    pub(crate) fn remove(&mut self, record: &FdRecord) -> bool {
        let Some(entry) = index(record.fd)
            .ok()
            .and_then(|index| self.entries.get_mut(index))
        else {
            return false;
        };
        let before = entry.records.len();
        entry
            .records
            .retain(|other| !std::ptr::eq(&raw const **other, record));
        let found = entry.records.len() < before;
        self.unpollable -= usize::from(found && record.handler.io_poll.is_none());
        // A removal cannot fail: a closed fd has left the set already, or is found out by its stale events.
        let _ = self.sync(record.fd, false);
        found
    }

    /// Tells the kernel what the handlers of `record`'s fd want now.
    pub(crate) fn update(&mut self, record: &FdRecord) {
        let _ = self.sync(record.fd, false);
    }

    /// The number of fds that are ready at all times.
    pub(crate) fn always_ready(&self) -> usize {
        self.always_ready.len()
    }

    /// How many handlers can only be waited for.
    pub(crate) fn unpollable(&self) -> usize {
        self.unpollable
    }

    /// Adds the handlers of the fds that are always ready to `batch`.
    pub(crate) fn collect_always_ready(&self, batch: &mut Batch) {
        for entry in self.always_ready.iter().filter_map(|&fd| self.entry(fd)) {
            push_all(entry, READABLE | WRITABLE, batch);
        }
    }

    /// The handler that `token` stands for, if it is the only one of its fd.
    pub(crate) fn sole(&self, token: u64) -> Option<Arc<FdRecord>> {
        match self.live(token)?.records.as_slice() {
            [record] => Some(Arc::clone(record)),
            _ => None,
        }
    }

    /// Adds the handlers that `event` is for to `batch`.
    ///
    /// # Errors
    /// The kernel's, when it gives no new set in the place of one with ghosts.
    pub(crate) fn collect(&mut self, event: &Event, batch: &mut Batch) -> Result<()> {
        let (token, events) = (event.u64, event.events);
        match self.live(token) {
            Some(entry) => {
                push_all(entry, events, batch);
                Ok(())
            }
            None => self.meet_stale(token),
        }
    }

    /// An event without a live registration: the first may have raced with a removal; a second one of the same token comes
    /// from a file that was closed under its handler and lives on elsewhere, and would fire for ever.
    fn meet_stale(&mut self, token: u64) -> Result<()> {
        if self.stale.len() < MANY_STALE && !self.stale.contains(&token) {
            self.stale.push(token);
            return Ok(());
        }
        self.stale.clear();
        self.rebuild()
    }

    fn rebuild(&mut self) -> Result<()> {
        let Set::Epoll(epoll) = &self.set else {
            return Ok(());
        };
        let fresh = Epoll::new()?;
        for (fd, entry) in self
            .entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.armed != 0)
        {
            let _ = fresh.add(raw(fd), entry.armed, token(raw(fd), entry.generation));
        }
        for &(fd, token) in &self.internal {
            fresh
                .add(fd, READABLE | EDGE, token)
                .map_err(|error| refused(fd, error))?;
        }
        epoll.replace_with(&fresh)
    }

    fn live(&self, token: u64) -> Option<&Entry> {
        let [fd, generation] = split(token);
        let entry = self.entries.get(fd as usize)?;
        (entry.armed != 0 && entry.generation == generation).then_some(entry)
    }

    fn entry(&self, fd: RawFd) -> Option<&Entry> {
        self.entries.get(index(fd).ok()?)
    }

    /// Makes the kernel's view of `fd` equal to the handlers'. `force` says that the fd may be a new file under an old number.
    fn sync(&mut self, fd: RawFd, force: bool) -> Result<()> {
        let index = index(fd)?;
        let epoll = match &self.set {
            Set::None => return Ok(()),
            Set::Epoll(epoll) => Arc::clone(epoll),
            Set::List(_) => return self.list(fd, force),
        };
        let generation = self.next_generation.wrapping_add(1);
        let Some(entry) = self.entries.get_mut(index) else {
            return Ok(());
        };
        let interest = entry.interest();
        let wanted = if interest == 0 {
            0
        } else {
            interest | entry.edge()
        };
        if wanted == 0 {
            forget(entry, &epoll, fd);
            self.always_ready.retain(|&other| other != fd);
        } else if self.internal.iter().any(|&(own, _)| own == fd) {
            // The number of a file that was closed under its handler is the reactor's own by now.
            return Err(refused(fd, io::Error::from_raw_os_error(libc::EBADF)));
        } else if wanted != entry.armed || force {
            let outcome =
                arm(entry, &epoll, fd, (wanted, generation)).map_err(|error| refused(fd, error))?;
            self.next_generation = generation;
            self.always_ready.retain(|&other| other != fd);
            if outcome == Armed::AlwaysReady {
                self.always_ready.push(fd);
            }
        }
        Ok(())
    }
}

#[derive(PartialEq, Eq)]
enum Armed {
    InSet,
    AlwaysReady,
}

fn arm(entry: &mut Entry, epoll: &Epoll, fd: RawFd, wanted: (u32, u32)) -> io::Result<Armed> {
    let (events, generation) = wanted;
    if entry.armed != 0 {
        match epoll.modify(fd, events, token(fd, generation)) {
            Ok(()) => {
                (entry.armed, entry.generation) = (events, generation);
                return Ok(Armed::InSet);
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => entry.armed = 0,
            Err(error) => return Err(error),
        }
    }
    let added = epoll
        .add(fd, events, token(fd, generation))
        .or_else(|error| match error.raw_os_error() {
            Some(libc::EEXIST) => epoll.modify(fd, events, token(fd, generation)),
            _ => Err(error),
        });
    match added {
        Ok(()) => (entry.armed, entry.generation) = (events, generation),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            return Ok(Armed::AlwaysReady);
        }
        Err(error) => return Err(error),
    }
    Ok(Armed::InSet)
}

fn forget(entry: &mut Entry, epoll: &Epoll, fd: RawFd) {
    if entry.armed != 0 {
        // ENOENT and EBADF mean that the fd was closed first; see `meet_stale`.
        let _ = epoll.delete(fd);
        entry.armed = 0;
    }
}

fn push_all(entry: &Entry, events: u32, batch: &mut Batch) {
    batch.extend(
        entry
            .records
            .iter()
            .map(|record| (Arc::clone(record), events)),
    );
}

fn refused(fd: RawFd, error: io::Error) -> Error {
    Error::os(format!("cannot watch fd {fd}"), error)
}

fn token(fd: RawFd, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(fd.cast_unsigned())
}

/// The fd and the generation of a token.
pub(super) fn split(token: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = token.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}

fn check_open(fd: RawFd) -> Result<()> {
    // SAFETY: F_GETFD takes no pointer and changes nothing.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(refused(fd, io::Error::last_os_error()));
    }
    Ok(())
}

fn index(fd: RawFd) -> Result<usize> {
    usize::try_from(fd).map_err(|_| refused(fd, io::Error::from_raw_os_error(libc::EBADF)))
}

fn raw(index: usize) -> RawFd {
    RawFd::try_from(index).unwrap_or(RawFd::MAX)
}

#[cfg(all(test, loom))]
mod model;
