//! The ring as a poller on kernels that lack this or that, and where its queues are full.
#![allow(unsafe_code)] // requests may name memory, and these name none
#![allow(clippy::unwrap_used)] // a failed call is a failed test

use super::{Abilities, HomeRing};
use crate::Clock;
use crate::eventfd::EventFd;
use crate::poller::epoll::Epoll;
use crate::poller::io_sink::{IoCompletion, IoSink};
use crate::poller::{Drivers, EDGE, READABLE};
use crate::skip::skip;
use crate::sync::AtomicUsize;
use io_uring::opcode;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, mpsc};

/// Every kind of ring that a kernel may give, where this one gives any.
fn rings() -> Vec<HomeRing> {
    let mut rings = Vec::new();
    for drivers in [Drivers::One, Drivers::Any] {
        for mask in 0..8 {
            let allowed = Abilities {
                deferred: mask & 1 != 0,
                epoll_wait: mask & 2 != 0,
                no_iowait: mask & 4 != 0,
            };
            match HomeRing::for_waiting(drivers, allowed) {
                Ok(ring) => rings.push(ring),
                Err(error) => skip(error),
            }
        }
    }
    rings
}

fn watched() -> (Epoll, EventFd) {
    let (epoll, event) = (Epoll::new().unwrap(), EventFd::new().unwrap());
    epoll.add(event.as_raw_fd(), READABLE, 42).unwrap();
    (epoll, event)
}

fn tokens(ring: &HomeRing, count: usize) -> Vec<u64> {
    ring.events(count).iter().map(|event| event.u64).collect()
}

#[derive(Default)]
struct Seen(Mutex<Vec<IoCompletion>>);

impl IoSink for Seen {
    fn complete(&self, completions: &[IoCompletion]) {
        self.0.lock().unwrap().extend_from_slice(completions);
    }
}

/// Starts `count` requests that do nothing, in one slot.
fn start_nops(ring: &mut HomeRing, count: u64) -> Arc<AtomicUsize> {
    let (sink, in_flight): (Arc<dyn IoSink>, _) = (Arc::new(Seen::default()), Arc::default());
    let slot = ring.slot_of(0, &Arc::downgrade(&sink), &in_flight).unwrap();
    for user in 0..count {
        // SAFETY: a no-op names no memory.
        unsafe { ring.request(slot, user, opcode::Nop::new().build()) }.unwrap();
        ring.begin(slot, &sink);
    }
    in_flight
}

/// The users of the requests that are complete.
fn finished(ring: &mut HomeRing) -> Vec<u64> {
    let (mut users, mut run) = (Vec::new(), Vec::new());
    while ring.next_run(&mut run).is_some() {
        users.extend(run.drain(..).map(|completion| completion.user));
    }
    users
}

#[test]
fn an_fd_is_reported_while_it_is_ready_by_every_wait() {
    for mut ring in rings() {
        let (epoll, event) = watched();
        assert_eq!(ring.wait(&epoll, 0).unwrap(), 0);
        event.write();
        for timeout in [0, -1, 1_000_000_000, 0] {
            let count = ring.wait(&epoll, timeout).unwrap();
            assert_eq!(tokens(&ring, count), [42], "{:?}", ring.abilities);
        }
        event.read();
        assert_eq!(ring.wait(&epoll, 0).unwrap(), 0);
        assert_eq!(ring.wait(&epoll, 0).unwrap(), 0);
    }
}

#[test]
fn an_edge_is_reported_once_by_every_wait() {
    for mut ring in rings() {
        let (epoll, event) = (Epoll::new().unwrap(), EventFd::new().unwrap());
        epoll.add(event.as_raw_fd(), READABLE | EDGE, 7).unwrap();
        for timeout in [0, -1, 0, -1] {
            assert_eq!(ring.wait(&epoll, 0).unwrap(), 0);
            event.write();
            let count = ring.wait(&epoll, timeout).unwrap();
            assert_eq!(tokens(&ring, count), [7], "{:?}", ring.abilities);
        }
    }
}

#[test]
fn a_finite_wait_sleeps_its_time_with_and_without_the_request_standing() {
    // The end of a ring interrupts its threads' waits, so all stay until the end.
    for ring in &mut rings() {
        let (epoll, _event) = watched();
        for looks_first in [false, true] {
            if looks_first {
                assert_eq!(ring.wait(&epoll, 0).unwrap(), 0);
            }
            let start = Clock::Realtime.now_ns();
            assert_eq!(ring.wait(&epoll, 2_000_000).unwrap(), 0);
            assert!(
                Clock::Realtime.now_ns() - start >= 2_000_000,
                "{:?}",
                ring.abilities
            );
        }
    }
}

#[test]
fn a_request_ends_the_wait_for_the_set_and_the_set_stays_watched() {
    for mut ring in rings() {
        let (epoll, event) = watched();
        start_nops(&mut ring, 3);
        assert_eq!(ring.wait(&epoll, -1).unwrap(), 0);
        assert_eq!(finished(&mut ring), [0, 1, 2]);
        event.write();
        let count = ring.wait(&epoll, -1).unwrap();
        assert_eq!(tokens(&ring, count), [42]);
    }
}

#[test]
fn more_requests_than_either_queue_holds_all_complete() {
    for mut ring in rings() {
        let (epoll, event) = watched();
        let in_flight = start_nops(&mut ring, 10_000);
        event.write();
        let (mut users, mut reports) = (Vec::new(), 0);
        while in_flight.load(std::sync::atomic::Ordering::Relaxed) > 0 {
            reports += ring.wait(&epoll, -1).unwrap();
            users.extend(finished(&mut ring));
        }
        users.sort_unstable();
        assert_eq!(
            users,
            (0..10_000).collect::<Vec<_>>(),
            "{:?}",
            ring.abilities
        );
        reports += ring.wait(&epoll, -1).unwrap();
        assert!(reports > 0, "the fd is reported as well");
    }
}

#[test]
fn a_withdrawn_request_takes_no_event_with_it() {
    for mut ring in rings() {
        let (epoll, event) = (Epoll::new().unwrap(), EventFd::new().unwrap());
        epoll.add(event.as_raw_fd(), READABLE | EDGE, 7).unwrap();
        assert_eq!(ring.wait(&epoll, 0).unwrap(), 0);
        event.write();
        let mut found = ring.withdraw(&epoll).unwrap();
        assert_eq!(ring.withdraw(&epoll).unwrap(), 0);
        found += epoll.wait(
            &mut [crate::poller::epoll::Event { events: 0, u64: 0 }; 4],
            0,
        );
        assert_eq!(found, 1, "{:?}", ring.abilities);
    }
}

/// The request stands in the name of a thread that is gone, or that does something else.
#[test]
fn a_ring_for_any_thread_is_handed_over_with_its_request_standing() {
    let Ok(ring) = HomeRing::for_waiting(Drivers::Any, Abilities::ALL) else {
        skip("this kernel allows no io_uring");
        return;
    };
    let ((epoll, event), ring) = (watched(), Mutex::new(ring));
    let look = || assert_eq!(ring.lock().unwrap().wait(&epoll, 0).unwrap(), 0);
    let find = || {
        event.write();
        let wait = || {
            let mut held = ring.lock().unwrap();
            let count = held.wait(&epoll, -1).unwrap();
            let found = tokens(&held, count);
            drop(held);
            found
        };
        // The thread's end may end a wait with nothing.
        let found = std::iter::repeat_with(wait).find(|tokens| !tokens.is_empty());
        assert_eq!(found, Some(vec![42]));
        event.read();
    };
    std::thread::scope(|scope| scope.spawn(look).join().unwrap());
    find();
    let (looked, has_looked) = mpsc::channel();
    let (over, is_over) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            look();
            looked.send(()).unwrap();
            is_over.recv().unwrap();
        });
        has_looked.recv().unwrap();
        find();
        over.send(()).unwrap();
    });
}

/// The ring of one thread is no ring for another; its home goes on with the set alone.
#[test]
fn a_ring_of_one_thread_refuses_another_and_waits_for_the_set_then() {
    let Ok(mut ring) = HomeRing::for_waiting(Drivers::One, Abilities::ALL) else {
        skip("this kernel allows no io_uring");
        return;
    };
    if !ring.abilities.deferred {
        skip("this kernel binds no ring to a thread");
        return;
    }
    let (epoll, event) = watched();
    let mut ring = std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            assert_eq!(ring.wait(&epoll, 0).unwrap(), 0);
            ring
        });
        first.join().unwrap()
    });
    event.write();
    assert!(ring.wait(&epoll, -1).is_err());
    let count = ring.wait(&epoll, -1).unwrap();
    assert_eq!(tokens(&ring, count), [42]);
}

/// A ring whose request was put there by a thread that is gone, if this kernel has such rings.
fn left_behind(drivers: Drivers, epoll: &Epoll) -> Option<HomeRing> {
    let mut fresh = HomeRing::for_waiting(drivers, Abilities::ALL)
        .inspect_err(|error| skip(error))
        .ok()?;
    let look = || {
        assert_eq!(fresh.wait(epoll, 0).unwrap(), 0);
        fresh
    };
    let ring = std::thread::scope(|scope| scope.spawn(look).join().unwrap());
    Some(ring)
}

#[test]
fn the_request_of_a_thread_that_is_gone_writes_to_nothing_when_the_ring_goes() {
    let (epoll, _event) = watched();
    for drivers in [Drivers::One, Drivers::Any] {
        let Some(mut ring) = left_behind(drivers, &epoll) else {
            return;
        };
        ring.end_watch();
        assert!(!ring.may_be_written_to(), "{drivers:?}");
    }
}

/// What had not been taken when the thread ended is not lost with it, nor with the refusal.
#[test]
fn a_thread_that_ends_takes_no_edge_with_it() {
    for drivers in [Drivers::One, Drivers::Any] {
        let (epoll, event) = (Epoll::new().unwrap(), EventFd::new().unwrap());
        epoll.add(event.as_raw_fd(), READABLE | EDGE, 7).unwrap();
        let Ok(mut fresh) = HomeRing::for_waiting(drivers, Abilities::ALL) else {
            skip("this kernel allows no io_uring");
            return;
        };
        let look = || {
            assert_eq!(fresh.wait(&epoll, 0).unwrap(), 0);
            event.write();
            fresh
        };
        let mut ring = std::thread::scope(|scope| scope.spawn(look).join().unwrap());
        let waits = std::iter::repeat_with(|| ring.wait(&epoll, 0).unwrap_or(0)).take(3);
        assert_eq!(waits.sum::<usize>(), 1, "{drivers:?}");
    }
}

#[test]
fn a_ring_for_any_thread_ends_the_request_of_one_that_sleeps() {
    let Ok(mut fresh) = HomeRing::for_waiting(Drivers::Any, Abilities::ALL) else {
        skip("this kernel allows no io_uring");
        return;
    };
    let (epoll, _event) = watched();
    let ((looked, has_looked), (over, is_over)) = (mpsc::channel(), mpsc::channel::<()>());
    std::thread::scope(|scope| {
        let epoll = &epoll;
        scope.spawn(move || {
            assert_eq!(fresh.wait(epoll, 0).unwrap(), 0);
            looked.send(fresh).unwrap();
            is_over.recv().unwrap();
        });
        let mut ring = has_looked.recv().unwrap();
        ring.end_watch();
        let is_left = ring.may_be_written_to();
        over.send(()).unwrap();
        assert!(!is_left);
    });
}
