//! A reactor whose waiting a foreign loop does, by its GSource: GLib polls the epoll set, or the fds of the list.
//!
//! A ring that waits for the set would take events that GLib is to see, so its request is withdrawn while GLib waits. The
//! completions of block I/O are seen by the ring's fd, which joins the set then; it must not stand there while the ring waits
//! for the set, for each completion would cause the next. The fd of a ring with DEFER_TASKRUN tells nothing to poll(2) until
//! its thread enters the ring: while requests are in flight there, GLib looks again each millisecond.
#![forbid(unsafe_code)]

use super::{Driving, Means, RING, Reactor, report};
use crate::Error;
use crate::sync::Ordering;
use crate::sync::lock;
use std::os::fd::RawFd;

impl Reactor {
    /// A foreign loop is about to wait.
    pub(super) fn give_way(&self, driving: &Driving<'_>) {
        let Some(Means::Ring(epoll, _)) = self.io.get().map(|io| &io.means) else {
            return;
        };
        let mut home = self.home.get(driving);
        if home.is_foreign {
            return;
        }
        home.is_foreign = true;
        let Some(mut ring) = self.take_ring(&mut home) else {
            return;
        };
        let mut trouble = Vec::new();
        match ring.withdraw(epoll) {
            Ok(count) => trouble.extend(self.sort_events(&mut home, ring.events(count)).err()),
            Err(error) => trouble.push(Error::os("the io_uring refuses its thread", error)),
        }
        if ring.has_voice() {
            trouble.extend(lock(&self.fds).watch_internal(ring.fd(), RING).err());
        }
        home.ring = Some(ring);
        drop(home);
        report(trouble);
    }

    /// Gives up what only the driving thread can, because it will not drive again.
    ///
    /// # Panics
    /// The token is another reactor's.
    pub fn part(&self, driving: &Driving<'_>) {
        driving.check(self);
        self.give_way(driving);
    }

    /// This thread waits by itself again.
    pub(super) fn take_over(&self, driving: &Driving<'_>) {
        let mut home = self.home.get(driving);
        if !home.is_foreign {
            return;
        }
        home.is_foreign = false;
        let fd = home.ring.as_ref().map(|ring| ring.fd());
        drop(home);
        if let Some(fd) = fd {
            lock(&self.fds).ignore_internal(fd);
        }
    }

    /// Collects what is ready, for a foreign loop that has waited.
    pub(super) fn look(&self, driving: &Driving<'_>) {
        match self.io.get().map(|io| &io.means) {
            Some(Means::Ring(epoll, _)) => self.collect_from_set(driving, epoll, 0),
            _ => self.collect(driving, 0),
        }
    }

    /// Changes whenever GLib asks the reactor's source by itself, and not within [`Reactor::ask_glib`]: then somebody else has
    /// iterated the GMainContext, and taken note of whatever its own wake-up fd has told.
    pub fn glib_turns(&self) -> usize {
        self.counts.glib_turns.load(Ordering::Relaxed)
    }

    /// The fds that a foreign loop is to poll besides [`Reactor::poll_fd`], if they are others than at `version`.
    pub(crate) fn listed_since(
        &self,
        driving: &Driving<'_>,
        version: &mut Option<u64>,
    ) -> Option<Vec<(RawFd, u32)>> {
        if !matches!(self.io.get()?.means, Means::List) {
            return None;
        }
        let mut home = self.home.get(driving);
        let wanted = (!home.served).then(|| {
            let fds = lock(&self.fds);
            fds.refresh(&mut home.list);
            fds.version().unwrap_or(0)
        });
        if *version == wanted {
            return None;
        }
        *version = wanted;
        // A loop that is served otherwise needs to see none.
        let shown = wanted.map_or(&[][..], |_| home.list.listed());
        Some(shown.iter().map(|one| (one.fd, one.events)).collect())
    }
}
