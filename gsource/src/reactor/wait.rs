//! The wait of a turn, and how its events become handlers to call.
#![forbid(unsafe_code)]

use super::{Driving, Home, Means, Reactor, TIMER, report};
use crate::poller::epoll::{Epoll, Event};
use crate::sync::Ordering;
use crate::sync::lock;
use crate::{Error, Result};

impl Reactor {
    /// Waits and puts what is ready into the batch.
    #[inline]
    pub(super) fn collect(&self, driving: &Driving<'_>, timeout_ns: i64) {
        let Some(io) = self.io.get() else { return };
        match &io.means {
            Means::Epoll(epoll) => self.collect_from_set(driving, epoll, timeout_ns),
            Means::Ring(epoll, _) => self.collect_from_ring(driving, epoll, timeout_ns),
            Means::List => self.collect_from_list(driving, timeout_ns),
        }
    }

    pub(super) fn collect_from_set(&self, driving: &Driving<'_>, epoll: &Epoll, timeout_ns: i64) {
        let mut events = self.events.get(driving);
        let count = epoll.wait(&mut events[..], timeout_ns);
        if count == 0 && !self.has_always_ready() {
            return;
        }
        let trouble = self.sort_events(&mut self.home.get(driving), &events[..count]);
        drop(events);
        if let Err(error) = trouble {
            report([error]);
        }
    }

    fn collect_from_ring(&self, driving: &Driving<'_>, epoll: &Epoll, timeout_ns: i64) {
        self.take_over(driving);
        let mut home = self.home.get(driving);
        let Some(mut ring) = self.take_ring(&mut home) else {
            return;
        };
        let waited = ring.wait(epoll, timeout_ns);
        let count = waited.as_ref().copied().unwrap_or(0);
        let mut trouble = Ok(());
        if count > 0 || self.has_always_ready() {
            trouble = self.sort_events(&mut home, ring.events(count));
        }
        home.ring = Some(ring);
        drop(home);
        let refused = waited.err();
        let refused = refused.map(|error| Error::os("the io_uring refuses to wait", error));
        report(refused.into_iter().chain(trouble.err()));
    }

    fn collect_from_list(&self, driving: &Driving<'_>, timeout_ns: i64) {
        let mut home = self.home.get(driving);
        let mut list = std::mem::take(&mut home.list);
        lock(&self.fds).refresh(&mut list);
        list.wait(timeout_ns);
        let mut trouble = self.drop_closed(list.closed());
        trouble.extend(self.sort_events(&mut home, list.ready()).err());
        home.list = list;
        drop(home);
        report(trouble);
    }

    fn drop_closed(&self, tokens: &[u64]) -> Vec<Error> {
        if tokens.is_empty() {
            return Vec::new();
        }
        let mut fds = lock(&self.fds);
        let closed = tokens.iter().filter_map(|&token| fds.drop_closed(token));
        closed.collect()
    }

    pub(super) fn sort_events(&self, home: &mut Home, events: &[Event]) -> Result<()> {
        let mut outcome = Ok(());
        for event in events {
            let (token, ready) = (event.u64, event.events);
            match token {
                super::WAKE | super::RING => {}
                TIMER => home.timer_fd_deadline = i64::MAX,
                _ => match home.fd_cache.lend(token) {
                    Some(record) => home.batch.push_back((record, ready)),
                    None => outcome = outcome.and(self.look_up(home, event)),
                },
            }
        }
        if self.has_always_ready() {
            lock(&self.fds).collect_always_ready(&mut home.batch);
        }
        outcome
    }

    /// Finds the handlers of an event in the table, and remembers one that is alone.
    #[inline(never)]
    fn look_up(&self, home: &mut Home, event: &Event) -> Result<()> {
        let mut fds = lock(&self.fds);
        if let Some(record) = fds.sole(event.u64) {
            home.fd_cache.learn(event.u64, record);
        }
        fds.collect(event, &mut home.batch)
    }

    /// True when some fd that epoll refuses is watched, so that no wait may block.
    pub(super) fn has_always_ready(&self) -> bool {
        self.counts.always_ready.load(Ordering::Acquire) > 0
    }
}
