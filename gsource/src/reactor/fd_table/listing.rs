//! The fd table of a home that waits with poll(2). A change makes a new version of the list. The home copies it before it waits
//! again.
#![forbid(unsafe_code)]

use super::{FdEntry, FdTable, KernelSet, RING, check_open, index, raw, refused, split, token};
use crate::poller::poll::{Drained, Listed, PollList, is_eventfd};
use crate::poller::{EDGE, READABLE};
use crate::{Error, Result};
use std::io;
use std::os::fd::RawFd;

impl FdTable {
    /// The version of the list; `None` with an epoll set.
    pub(crate) fn version(&self) -> Option<u64> {
        match self.set {
            KernelSet::List(version) => Some(version),
            _ => None,
        }
    }

    /// Makes `list` the current version.
    pub(crate) fn refresh(&self, list: &mut PollList) {
        let Some(version) = self.version().filter(|&version| !list.is_of(version)) else {
            return;
        };
        let own = self.internal.iter().map(|&(fd, token)| Listed {
            fd,
            events: READABLE,
            token,
            drained: if token == RING {
                Drained::No
            } else {
                Drained::Own
            },
        });
        let wanted = self.entries.iter().enumerate();
        let wanted = wanted.filter(|(_, entry)| entry.armed != 0);
        let wanted = wanted.map(|(fd, entry)| listed(raw(fd), entry));
        list.fill(version, own.chain(wanted));
    }

    /// Lists what the handlers of `fd` want now. `force` says that the fd may be a new file under an old number.
    pub(super) fn list(&mut self, fd: RawFd, force: bool) -> Result<()> {
        let generation = self.next_generation.wrapping_add(1);
        let Some(entry) = self.entries.get_mut(index(fd)?) else {
            return Ok(());
        };
        let interest = entry.interest();
        let wanted = if interest == 0 {
            0
        } else {
            interest | entry.edge()
        };
        if wanted == entry.armed && !(force && wanted != 0) {
            return Ok(());
        }
        if wanted != 0 {
            if self.internal.iter().any(|&(own, _)| own == fd) {
                return Err(refused(fd, io::Error::from_raw_os_error(libc::EBADF)));
            }
            check_open(fd)?;
            entry.generation = generation;
            self.next_generation = generation;
        }
        entry.armed = wanted;
        self.change_list();
        Ok(())
    }

    /// Takes an fd out that was closed under its handlers. They are called no more. The answer is the error to log.
    pub(crate) fn drop_closed(&mut self, token: u64) -> Option<Error> {
        self.live(token)?;
        let [fd, _] = split(token);
        let fd = RawFd::try_from(fd).ok()?;
        self.entries.get_mut(index(fd).ok()?)?.armed = 0;
        self.change_list();
        Some(refused(fd, io::Error::from_raw_os_error(libc::EBADF)))
    }

    fn change_list(&mut self) {
        if let KernelSet::List(version) = &mut self.set {
            *version += 1;
        }
    }
}

fn listed(fd: RawFd, entry: &FdEntry) -> Listed {
    let drained = if entry.armed & EDGE != 0 && is_eventfd(fd) {
        Drained::Shared
    } else {
        Drained::No
    };
    Listed {
        fd,
        events: entry.armed,
        token: token(fd, entry.generation),
        drained,
    }
}
