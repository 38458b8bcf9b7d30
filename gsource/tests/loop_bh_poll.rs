//! What the thread that drives an AioContext may call between iterations: `poll_bhs`, which runs bottom halves alone, and
//! `timeout_ns`, how long a wait would be.
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used)] // a test fails by panicking

use gsource::{AioContext, Clock, ErrorKind, EventNotifier, FdHandler, Reactor, Wait};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use support::loops::{Count, Journal};

const HOUR_NS: i64 = 3_600_000_000_000;

#[test]
fn bottom_halves_of_one_context_run_alone_and_in_order() {
    let reactor = Reactor::new().unwrap();
    let contexts = [0, 1].map(|_| AioContext::new().unwrap());
    contexts
        .iter()
        .for_each(|aio| aio.attach_to(&reactor).unwrap());
    let journal = Journal::new();
    let event = EventNotifier::new().unwrap();
    event.signal();
    let ready = Count::new();
    contexts[0]
        .set_fd_handler(
            event.as_raw_fd(),
            FdHandler::new().on_read(ready.hitter()).edge_triggered(),
        )
        .unwrap();
    for (context, word) in [(1, "b1"), (0, "a1"), (1, "b2"), (0, "a2")] {
        let write = journal.noter(word);
        contexts[context].schedule_oneshot("test", write);
    }
    assert!(contexts[0].poll_bhs().unwrap());
    assert_eq!(journal.text(), "a1 a2");
    assert!(!contexts[0].poll_bhs().unwrap());
    assert_eq!(ready.get(), 0);
    assert!(contexts[0].poll(Wait::NoBlock).unwrap());
    assert_eq!(journal.text(), "a1 a2 b1 b2");
    assert_eq!(ready.get(), 1);
}

#[test]
fn one_that_schedules_itself_runs_once_in_each_pass() {
    let aio = AioContext::new().unwrap();
    let slot = Arc::new(Mutex::new(None::<gsource::Bh>));
    let (count, again) = (Count::new(), Arc::clone(&slot));
    let hit = count.hitter();
    let bh = aio.bh("again", move || {
        hit();
        again.lock().unwrap().as_ref().unwrap().schedule();
    });
    bh.schedule();
    *slot.lock().unwrap() = Some(bh);
    for turn in 1..=3 {
        assert!(aio.poll_bhs().unwrap());
        assert_eq!(count.get(), turn);
    }
    let last = slot.lock().unwrap().take();
    drop(last);
}

#[test]
fn a_nested_pass_runs_the_rest_of_the_outer_one() {
    let aio = AioContext::new().unwrap();
    let journal = Journal::new();
    let (nested, outer, inner) = (aio.clone(), journal.noter("outer"), journal.noter("inner"));
    aio.schedule_oneshot("outer", move || {
        assert!(nested.poll_bhs().unwrap());
        outer();
    });
    aio.schedule_oneshot("inner", inner);
    assert!(aio.poll_bhs().unwrap());
    assert_eq!(journal.text(), "inner outer");
    assert!(!aio.poll_bhs().unwrap());
}

#[test]
fn the_wait_is_bounded_by_the_first_thing_due() {
    let aio = AioContext::new().unwrap();
    assert_eq!(aio.timeout_ns().unwrap(), None);
    aio.notify();
    assert_eq!(aio.timeout_ns().unwrap(), None);
    let timer = aio.timer(Clock::Realtime, || ());
    timer.arm_in_ns(HOUR_NS);
    let far = aio.timeout_ns().unwrap().unwrap();
    assert!(far > HOUR_NS / 2 && far <= HOUR_NS);
    let bh = aio.bh("test", || ());
    bh.schedule_idle();
    assert_eq!(aio.timeout_ns().unwrap(), Some(10_000_000));
    bh.schedule();
    assert_eq!(aio.timeout_ns().unwrap(), Some(0));
    drop(bh);
    drop(timer);
    assert_eq!(aio.timeout_ns().unwrap(), None);
}

#[test]
fn only_the_thread_that_drives_may_ask() {
    let reactor = Reactor::new().unwrap();
    let aio = AioContext::new().unwrap();
    aio.attach_to(&reactor).unwrap();
    let driving = reactor.drive().unwrap();
    std::thread::scope(|scope| {
        let elsewhere = || {
            let polled = aio.poll_bhs().unwrap_err().kind();
            (polled, aio.timeout_ns().unwrap_err().kind())
        };
        let kinds = scope.spawn(elsewhere).join().unwrap();
        assert_eq!(kinds, (ErrorKind::WrongThread, ErrorKind::WrongThread));
    });
    drop(driving);
    assert!(!aio.poll_bhs().unwrap());
}

/// The thread that forgot it would take a later reactor at the same place, another thread's, for the one it drives.
#[test]
fn a_reactor_whose_token_was_forgotten_leaves_its_place_to_no_other() {
    // What stays there is no leak: a static knows it.
    static PLACES: Mutex<Vec<usize>> = Mutex::new(Vec::new());
    let many = || -> Vec<Arc<Reactor>> { (0..50).map(|_| Reactor::new().unwrap()).collect() };
    let place = |reactor: &Arc<Reactor>| Arc::as_ptr(reactor).addr();
    let mut places = PLACES.lock().unwrap();
    for _ in 0..20 {
        // Neighbours come and go together, so that those of the next round find the same room.
        let reactors = many();
        assert!(!reactors.iter().map(place).any(|it| places.contains(&it)));
        let forgotten = &reactors[25];
        std::mem::forget(forgotten.drive().unwrap());
        places.push(place(forgotten));
    }
}
