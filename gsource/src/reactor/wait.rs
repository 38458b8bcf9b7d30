//! The wait of a turn, and how its events become handlers to call.
#![forbid(unsafe_code)]

use super::fd_table::{RING, TIMER, WAKE};
use super::wait_method::WaitMethod;
use super::{Driving, HomeState, Reactor, report};
use crate::poller::epoll::{Epoll, Event};
use crate::sync::{Ordering, lock};
use crate::{Error, Result};

impl Driving<'_> {
    /// Waits for at most `timeout_ns` (negative: for ever) and puts what is ready into the batch.
    #[inline]
    pub(super) fn collect(&self, timeout_ns: i64) {
        let Some(fds) = self.reactor.fds.get() else {
            return;
        };
        match &fds.method {
            WaitMethod::Epoll(epoll) => self.collect_from_set(epoll, timeout_ns),
            WaitMethod::Ring(epoll, _) => self.collect_from_ring(epoll, timeout_ns),
            WaitMethod::Poll => self.collect_from_list(timeout_ns),
        }
    }

    #[inline]
    pub(super) fn collect_from_set(&self, epoll: &Epoll, timeout_ns: i64) {
        let mut events = self.events();
        let count = epoll.wait(&mut events[..], timeout_ns);
        if count == 0 && !self.reactor.has_always_ready() {
            return;
        }
        let sorted = self.sort_events(&mut self.home(), &events[..count]);
        drop(events);
        if let Err(error) = sorted {
            report([error]);
        }
    }

    fn collect_from_ring(&self, epoll: &Epoll, timeout_ns: i64) {
        self.take_wait_back();
        let mut home = self.home();
        let Some(mut ring) = self.take_ring(&mut home) else {
            return;
        };
        let waited = ring.wait(epoll, timeout_ns);
        let count = waited.as_ref().copied().unwrap_or(0);
        let mut sorted = Ok(());
        if count > 0 || self.reactor.has_always_ready() {
            sorted = self.sort_events(&mut home, ring.events(count));
        }
        home.ring = Some(ring);
        drop(home);
        let refused = waited.err();
        let refused = refused.map(|error| Error::os("the io_uring refuses to wait", error));
        report(refused.into_iter().chain(sorted.err()));
    }

    #[inline]
    pub(super) fn collect_from_list(&self, timeout_ns: i64) {
        let mut home = self.home();
        let mut list = std::mem::take(&mut home.list);
        lock(&self.reactor.table).refresh(&mut list);
        list.wait(timeout_ns);
        let mut errors = self.drop_closed(list.closed());
        errors.extend(self.sort_events(&mut home, list.ready()).err());
        home.list = list;
        drop(home);
        report(errors);
    }

    fn drop_closed(&self, tokens: &[u64]) -> Vec<Error> {
        if tokens.is_empty() {
            return Vec::new();
        }
        let mut table = lock(&self.reactor.table);
        let closed = tokens.iter().filter_map(|&token| table.drop_closed(token));
        closed.collect()
    }

    pub(super) fn sort_events(&self, home: &mut HomeState, events: &[Event]) -> Result<()> {
        let mut outcome = Ok(());
        for event in events {
            let (token, ready) = (event.u64, event.events);
            match token {
                WAKE | RING => {}
                TIMER => home.timer_fd.has_fired(),
                _ => match home.fd_cache.get(token) {
                    Some(record) => home.batch.push_back((record, ready)),
                    None => outcome = outcome.and(self.look_up(home, event)),
                },
            }
        }
        if self.reactor.has_always_ready() {
            lock(&self.reactor.table).collect_always_ready(&mut home.batch);
        }
        outcome
    }

    /// Finds the handlers of an event in the table. If there is one only, the cache gets it.
    #[inline(never)]
    fn look_up(&self, home: &mut HomeState, event: &Event) -> Result<()> {
        let mut table = lock(&self.reactor.table);
        if let Some(record) = table.sole(event.u64) {
            home.fd_cache.insert(event.u64, record);
        }
        table.collect(event, &mut home.batch)
    }
}

impl Reactor {
    /// True when an fd is watched that epoll refuses, so that no wait may block.
    pub(super) fn has_always_ready(&self) -> bool {
        self.counts.always_ready.load(Ordering::Acquire) > 0
    }
}
