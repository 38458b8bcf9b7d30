//! Which handlers want which fd, and what is registered with the kernel.
//!
//! Several tenants of a reactor may want one fd. epoll takes an fd once, so their interests are merged here. The table is indexed
//! by fd, so a change costs the same however many handlers there are.
//!
//! # Invariants
//! 1. A token names an fd and the generation of its registration; a registration that left the set never comes back with
//!    the same generation, so an event read before the change cannot reach a later handler.
#![allow(unsafe_code)] // fcntl(2)

mod listing;

use super::fd_record::FdRecord;
use crate::poller::epoll::{Epoll, Event};
use crate::poller::{EDGE, READABLE, WRITABLE};
use crate::{Error, Resource, Result};
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

/// Token of the wake-up fd. Fds have generations above 0 and numbers below 2^31, so no fd has it.
pub(super) const WAKE: u64 = u64::MAX;
/// Token of the fd that wakes GLib for a timer.
pub(super) const TIMER: u64 = u64::MAX - 1;
/// Token of the io_uring.
pub(super) const RING: u64 = u64::MAX - 2;

/// Handlers to call with what happened, oldest first.
pub(crate) type Batch = VecDeque<(Arc<FdRecord>, u32)>;

#[derive(Default)]
struct FdEntry {
    generation: u32,
    /// The events in the epoll set; 0 when the fd is not in it.
    armed: u32,
    records: Vec<Arc<FdRecord>>,
}

impl FdEntry {
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
    entries: Vec<FdEntry>,
    set: KernelSet,
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

/// What the fds are registered with.
#[derive(Default)]
pub(crate) enum KernelSet {
    /// Nothing yet: the reactor has no fds.
    #[default]
    None,
    Epoll(Arc<Epoll>),
    /// The version of the list. The home copies it to a [`PollList`](crate::poller::poll::PollList) before it waits.
    List(u64),
}

/// So many stale tokens prove that files live on, even if none was seen twice.
const MANY_STALE: usize = 64;

impl FdTable {
    /// Starts to use `set`, with the reactor's wake-up fd and its token in it, and registers everything that was added before.
    /// The answer is the errors of fds that were closed meanwhile; the others are registered.
    pub(crate) fn open(&mut self, set: KernelSet, wake: (RawFd, u64)) -> Result<Vec<Error>> {
        self.set = set;
        self.watch_internal(wake.0, wake.1)?;
        Ok((0..self.entries.len())
            .filter_map(|fd| self.sync(raw(fd), true).err())
            .collect())
    }

    /// Watches one of the reactor's own fds, whose events carry `token`.
    pub(crate) fn watch_internal(&mut self, fd: RawFd, token: u64) -> Result<()> {
        match &mut self.set {
            KernelSet::None => {}
            KernelSet::Epoll(epoll) => epoll
                .add(fd, READABLE | EDGE, token)
                .map_err(|error| refused(fd, error))?,
            KernelSet::List(version) => *version += 1,
        }
        self.internal.push((fd, token));
        Ok(())
    }

    /// Watches one of the reactor's own fds no more.
    pub(crate) fn ignore_internal(&mut self, fd: RawFd) {
        match &mut self.set {
            KernelSet::None => {}
            KernelSet::Epoll(epoll) => {
                // It is in the set, so this does not fail.
                let _ = epoll.delete(fd);
            }
            KernelSet::List(version) => *version += 1,
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
        if !matches!(self.set, KernelSet::Epoll(_)) || self.entries.len() <= index {
            // Before the table is open, no system call checks the fd. And a wrong number must not make the table huge.
            check_open(fd)?;
        }
        self.put(index, record);
        self.sync(fd, true).inspect_err(|_| {
            self.remove(record);
        })
    }

    /// Takes over a handler from another table. If its fd was closed meanwhile (or is an epoll set by now), the handler is added
    /// all the same, and the error to `closed`.
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
            self.entries.resize_with(index + 1, FdEntry::default);
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
        // A removal cannot fail: a closed fd has left the set already, or is found by its stale events.
        let _ = self.sync(record.fd, false);
        found
    }

    /// Registers anew what the handlers of `record`'s fd want.
    pub(crate) fn update(&mut self, record: &FdRecord) {
        let _ = self.sync(record.fd, false);
    }

    /// The number of fds that are ready at all times.
    pub(crate) fn always_ready(&self) -> usize {
        self.always_ready.len()
    }

    /// How many handlers have no `io_poll`.
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
    /// The kernel's, when the set must be rebuilt and it gives no new one.
    pub(crate) fn collect(&mut self, event: &Event, batch: &mut Batch) -> Result<()> {
        let (token, events) = (event.u64, event.events);
        match self.live(token) {
            Some(entry) => {
                push_all(entry, events, batch);
                Ok(())
            }
            None => self.note_stale(token),
        }
    }

    /// An event without a live registration. The first may have raced with a removal. A second one of the same token comes from
    /// a file that was closed under its handler and is open elsewhere. It would fire for ever, so the set is rebuilt without it.
    fn note_stale(&mut self, token: u64) -> Result<()> {
        if self.stale.len() < MANY_STALE && !self.stale.contains(&token) {
            self.stale.push(token);
            return Ok(());
        }
        self.stale.clear();
        self.rebuild()
    }

    fn rebuild(&mut self) -> Result<()> {
        let KernelSet::Epoll(epoll) = &self.set else {
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

    fn live(&self, token: u64) -> Option<&FdEntry> {
        let [fd, generation] = split(token);
        let entry = self.entries.get(fd as usize)?;
        (entry.armed != 0 && entry.generation == generation).then_some(entry)
    }

    fn entry(&self, fd: RawFd) -> Option<&FdEntry> {
        self.entries.get(index(fd).ok()?)
    }

    /// Makes the kernel's view of `fd` equal to the handlers'. `force` says that the fd may be a new file under an old number.
    fn sync(&mut self, fd: RawFd, force: bool) -> Result<()> {
        let index = index(fd)?;
        let epoll = match &self.set {
            KernelSet::None => return Ok(()),
            KernelSet::Epoll(epoll) => Arc::clone(epoll),
            KernelSet::List(_) => return self.list(fd, force),
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
            // The fd was closed under its handler, and its number is one of the reactor's own by now.
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

fn arm(entry: &mut FdEntry, epoll: &Epoll, fd: RawFd, wanted: (u32, u32)) -> io::Result<Armed> {
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

fn forget(entry: &mut FdEntry, epoll: &Epoll, fd: RawFd) {
    if entry.armed != 0 {
        // ENOENT and EBADF mean that the fd was closed first; see `note_stale`.
        let _ = epoll.delete(fd);
        entry.armed = 0;
    }
}

fn push_all(entry: &FdEntry, events: u32, batch: &mut Batch) {
    batch.extend(
        entry
            .records
            .iter()
            .map(|record| (Arc::clone(record), events)),
    );
}

fn refused(fd: RawFd, error: io::Error) -> Error {
    Error::limited(format!("cannot watch fd {fd}"), error, Resource::Watch)
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
